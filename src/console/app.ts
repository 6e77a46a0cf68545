/** The console: a door where the key is given, and a room with one conversation at a time. */
import { type Conversation, SluiceClient, SluiceError } from "../../clients/typescript/index.ts";
import { Banner } from "./banner.ts";
import { Chat } from "./chat.ts";
import { at } from "./dom.ts";
import { ConversationList, titleOf } from "./list.ts";
import { MakeDialog } from "./make.ts";
import { sends } from "./messages.ts";
import { tab } from "./tab.ts";
import { ToolResults } from "./tools.ts";
import { inWords, isUsed, usageLine } from "./words.ts";

/** So many characters of what was said first name a conversation. */
const TITLE_CHARS = 60;
/** How long a second click counts as "yes, delete it", ms. */
const SURE_MS = 5_000;

const door = at("door", HTMLElement);
const room = at("room", HTMLElement);
const side = at("side", HTMLElement);
const showList = at("show-list", HTMLButtonElement);
const composer = at("composer", HTMLFormElement);
const words = at("words", HTMLTextAreaElement);
const stop = at("stop", HTMLButtonElement);
const remove = at("delete", HTMLButtonElement);
const talk = at("talk", HTMLElement);
const toEnd = at("to-end", HTMLButtonElement);
const banner = new Banner();
const tools = new ToolResults();
const make = new MakeDialog();

let client: SluiceClient | undefined;
let list: ConversationList | undefined;
let chat: Chat | undefined;
let models: readonly string[] = [];

function problem(text: string | null): void {
  at("problem", HTMLElement).hidden = text === null;
  at("problem-text", HTMLElement).textContent = text;
}

function failed(error: unknown): void {
  if (!(error instanceof SluiceError)) throw error;
  if (error.type === "authentication_error") leave(inWords(error));
  else problem(inWords(error, error.retryAfterSeconds));
}

/** Back to the door. */
function leave(why: string): void {
  tab.forgetEverything();
  chat?.close();
  chat = undefined;
  client = undefined;
  banner.hide();
  talk.replaceChildren();
  room.hidden = true;
  door.hidden = false;
  document.title = "Sluice";
  at("key-problem", HTMLElement).textContent = why;
  at("key", HTMLInputElement).focus();
}

async function enter(key: string): Promise<void> {
  const entering = new SluiceClient({ baseUrl: location.origin, apiKey: key });
  const conversations = new ConversationList(entering, open, failed);
  await conversations.first();
  tab.key = key;
  client = entering;
  list = conversations;
  door.hidden = true;
  room.hidden = false;
  problem(null);
  readModels(key).catch(() => {
    // Then the model's name is typed.
  });
  if (tab.open === null) show();
  else open(tab.open);
}

async function readModels(key: string): Promise<void> {
  const response = await fetch("/v1/models?limit=100", { headers: { "x-api-key": key } });
  if (!response.ok) return;
  const { data } = (await response.json()) as { readonly data: readonly { readonly id: string }[] };
  models = data.map(({ id }) => id);
}

function open(id: string): void {
  if (!client) return;
  chat?.close();
  banner.hide();
  problem(null);
  talk.replaceChildren();
  const opened = new Chat(client, id, {
    changed: (changed) => {
      if (changed === chat) show();
    },
    line: (status) => {
      const anew = (error: SluiceError): void => {
        if (error.type === "authentication_error") leave(inWords(error));
        else if (error.type === "not_found_error") shut();
        else open(id);
      };
      if (status.state === "closed" && status.error?.type === "not_found_error") list?.refresh();
      banner.show(status, () => opened.reconnectNow(), anew);
      show();
    },
    problem,
    sent: () => {
      problem(null);
      words.focus();
    },
    refused: (text) => {
      words.value = words.value === "" ? text : `${text}\n\n${words.value}`;
      typed();
    },
    away: (away) => {
      toEnd.hidden = !away;
    },
  });
  chat = opened;
  tab.open = id;
  words.value = tab.draft(id);
  grow();
  toEnd.hidden = true;
  list?.mark(id);
  folded(true);
  show();
  opened.open().then(
    () => words.focus(),
    (error: unknown) => {
      if (chat !== opened) return;
      shut();
      failed(error);
    },
  );
}

/** No conversation is open. */
function shut(): void {
  chat?.close();
  chat = undefined;
  tab.open = null;
  list?.mark(null);
  banner.hide();
  talk.replaceChildren();
  toEnd.hidden = true;
  show();
}

function begin(made: Conversation): void {
  list?.refresh();
  open(made.id);
}

/** Everything around the messages, as it is now. */
function show(): void {
  const conversation = chat?.conversation;
  const title = conversation ? titleOf(conversation) : "Sluice";
  if (conversation) list?.tell(conversation);
  at("title", HTMLElement).textContent = title;
  document.title = conversation ? `${title} · Sluice` : "Sluice";
  at("about", HTMLElement).textContent = conversation
    ? [conversation.model, ...(isUsed(conversation.usage) ? [spent(conversation)] : [])].join(" · ")
    : "Begin a conversation, or open one.";
  const awaiting = chat?.awaiting ?? [];
  remove.hidden = !chat?.listening;
  composer.hidden = !chat?.listening || awaiting.length > 0;
  stop.hidden = !chat?.running;
  const current = chat;
  tools.show(awaiting, chat?.messages ?? [], (content) => current?.say(content));
  // What had the focus is hidden now: what can be typed into next has it.
  if (document.activeElement === document.body && chat?.listening) (tools.first ?? words).focus();
  if (chat && conversation) name(chat, conversation);
}

function spent({ usage, cost_micro_usd: cost }: Conversation): string {
  return usageLine(usage, cost / 1e6);
}

const named = new Set<string>();

/** Names a conversation by what was said first, once. */
function name(of: Chat, { id, metadata }: Conversation): void {
  const { first } = of;
  if (metadata.title || typeof first !== "string" || named.has(id)) return;
  named.add(id);
  const title = first.replace(/\s+/g, " ").trim().slice(0, TITLE_CHARS);
  of.rename({ ...metadata, title }).catch(() => {
    // It goes by its model.
  });
}

function send(): void {
  const text = words.value.trim();
  if (text === "" || !chat) return;
  words.value = "";
  typed();
  chat.say(text);
}

function typed(): void {
  if (chat) tab.keepDraft(chat.id, words.value);
  grow();
}

/** The field is as high as what is in it; the style says how high at most. */
function grow(): void {
  words.rows = Math.min(8, words.value.split("\n").length);
}

function folded(folded: boolean): void {
  side.classList.toggle("shown", !folded);
  showList.setAttribute("aria-expanded", String(!folded));
}

function sure(): boolean {
  if (remove.dataset.sure === "yes") return true;
  remove.dataset.sure = "yes";
  remove.textContent = "Really delete?";
  setTimeout(() => {
    remove.dataset.sure = "no";
    remove.textContent = "Delete";
  }, SURE_MS);
  return false;
}

at("key-form", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  const field = at("key", HTMLInputElement);
  const said = at("key-problem", HTMLElement);
  said.textContent = "";
  Promise.resolve()
    .then(() => enter(field.value.trim()))
    .then(
      () => {
        field.value = "";
      },
      (error: unknown) => {
        said.textContent = error instanceof SluiceError ? inWords(error, error.retryAfterSeconds) : String(error);
        field.select();
      },
    );
});
at("new", HTMLButtonElement).addEventListener("click", () => client && make.show(client, models, begin));
at("forget", HTMLButtonElement).addEventListener("click", () => leave(""));
at("problem-close", HTMLButtonElement).addEventListener("click", () => {
  problem(null);
  words.focus();
});
showList.addEventListener("click", () => folded(side.classList.contains("shown")));
stop.addEventListener("click", () => chat?.cancel());
remove.addEventListener("click", () => {
  const id = chat?.id;
  if (id === undefined || !client || !sure()) return;
  client.deleteConversation(id).then(() => {
    shut();
    list?.refresh();
  }, failed);
});
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
words.addEventListener("input", typed);
toEnd.addEventListener("click", () => {
  chat?.toEnd();
  words.focus();
});
words.addEventListener("keydown", (event) => {
  if (!sends(event)) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (side.classList.contains("shown")) folded(true);
  else chat?.cancel();
});

const key = tab.key;
if (key === null) leave("");
else
  enter(key).catch((error: unknown) => {
    leave(error instanceof SluiceError ? inWords(error, error.retryAfterSeconds) : String(error));
  });
