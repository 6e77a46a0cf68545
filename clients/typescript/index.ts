export { type ClientOptions, type ConversationChange, type ConversationFields, SluiceClient } from "./client.ts";
export type { Status } from "./connection.ts";
export { SluiceError } from "./errors.ts";
export type { KeySource } from "./key.ts";
export type { Clock, SocketClass, SocketLike } from "./line.ts";
export * from "./protocol.ts";
export type { Received } from "./queue.ts";
export { SentTurn, type TurnEnd, textOf } from "./sent-turn.ts";
export { type ConnectOptions, ConversationSocket } from "./socket.ts";
