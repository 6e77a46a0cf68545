/** The page of administrators: a door where a credential is traded for a session, and a desk with what was changed. */
import { ChangeList } from "./change-list.ts";
import { currentSession, Refused, readChanges, type Session, signIn, signOut } from "./control-plane.ts";
import { at, el } from "./dom.ts";

const PAGE = 25;
/** Timers wait no longer than this, ms; a session does not last a month. */
const LONGEST_WAIT_MS = 2 ** 31 - 1;
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

const door = at("door", HTMLElement);
const desk = at("desk", HTMLElement);
const credential = at("credential", HTMLInputElement);
const list = new ChangeList((cursor) => readChanges(PAGE, cursor));

let session: Session | undefined;
let ending: ReturnType<typeof setTimeout> | undefined;

const problem = (text: string): void => {
  at("problem", HTMLElement).textContent = text;
};
const announce = (text: string): void => {
  at("announce", HTMLElement).textContent = text;
};

/** Back to the door. */
function leave(why: string): void {
  clearTimeout(ending);
  session = undefined;
  list.clear();
  desk.hidden = true;
  door.hidden = false;
  at("door-problem", HTMLElement).textContent = why;
  credential.focus();
}

function enter(opened: Session): void {
  session = opened;
  door.hidden = true;
  desk.hidden = false;
  problem("");
  at("who", HTMLElement).textContent = `Signed in as ${nameOf(opened.actor)}`;
  at("session", HTMLElement).replaceChildren(...factsOf(opened));
  at("changes-title", HTMLElement).focus();
  clearTimeout(ending);
  if (opened.expires_at !== null) {
    const left = Math.max(0, Date.parse(opened.expires_at) - Date.now());
    ending = setTimeout(() => leave("Your session has ended."), Math.min(left, LONGEST_WAIT_MS));
  }
  read(() => list.first());
}

function read(run: () => Promise<unknown>): void {
  problem("");
  run().catch(failed);
}

function failed(error: unknown): void {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) leave("Your session has ended.");
  else problem(error.message);
}

const nameOf = (actor: string): string => (actor === "admin-token" ? "the admin token" : actor);

function factsOf({ actor, scopes, expires_at }: Session): HTMLElement[] {
  const facts: [name: string, value: string][] = [
    ["Who", nameOf(actor)],
    ["May", mayOf(scopes)],
    ["Ends", expires_at === null ? "never" : moment.format(new Date(expires_at))],
  ];
  return facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, el("bdi", {}, value))]);
}

/** The rest of a key's scopes are for calls, which a session makes none of. */
function mayOf(scopes: readonly string[] | null): string {
  if (scopes === null) return "everything";
  const has = (scope: string): boolean => scopes.includes("admin") || scopes.includes(scope);
  if (!has("admin:write")) return "read the control plane";
  return `${has("admin:read") ? "read and change" : "change"} the control plane, within the rights of its key`;
}

at("sign-in", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  const said = at("door-problem", HTMLElement);
  const go = at("enter", HTMLButtonElement);
  said.textContent = "";
  go.disabled = true;
  signIn(credential.value.trim())
    .then(
      (opened) => {
        credential.value = "";
        enter(opened);
      },
      (error: unknown) => {
        said.textContent = error instanceof Refused ? error.message : String(error);
        credential.select();
      },
    )
    .finally(() => {
      go.disabled = false;
    });
});
at("sign-out", HTMLButtonElement).addEventListener("click", () => {
  if (!session) return;
  signOut(session).then(() => leave(""), failed);
});
at("again", HTMLButtonElement).addEventListener("click", () => {
  read(async () => {
    await list.first();
    announce("The newest changes are shown.");
  });
});
at("more", HTMLButtonElement).addEventListener("click", () => {
  read(async () => announce(`${await list.older()} older changes are shown.`));
});

currentSession().then(
  (found) => (found ? enter(found) : leave("")),
  (error: unknown) => leave(error instanceof Refused ? error.message : String(error)),
);
