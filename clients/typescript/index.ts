export { type ClientOptions, type ConversationChange, type ConversationFields, SluiceClient } from "./client.ts";
export { SluiceError } from "./errors.ts";
export type { Clock, SocketClass, SocketLike } from "./line.ts";
export * from "./protocol.ts";
export { SentTurn, type TurnEnd, textOf } from "./sent-turn.ts";
export { type ConnectOptions, ConversationSocket, type Received, type Status } from "./socket.ts";
