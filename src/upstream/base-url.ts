/**
 * Which addresses an upstream may have. Calls to it carry its credential, and whoever may use the control plane is not
 * for that reason free to send a credential, or the gateway, anywhere: hosts come from a list that is set with the
 * deployment. What is accepted is a grammar of plain addresses, so there is no spelling that two parsers could read in
 * two ways. Pure.
 *
 * Left open: a name on the list that resolves to a private address. Workers can't look, and reach no private network.
 */
import { matchesHost } from "../patterns.ts";
import { err, ok, type Result } from "../result.ts";

/** What the deployment allows. */
export type BaseUrlRules = {
  /** Exact names, or `*.` and a name for everything below it. Lower case. */
  readonly hosts: readonly string[];
  /** Development: `http://127.0.0.1:PORT` and `http://localhost:PORT` too, spelled just so. */
  readonly allowLocal: boolean;
};

const MAX_URL_CHARS = 500;
/** RFC 1035 §2.3.4. */
const MAX_HOST_CHARS = 253;
const FIRST_UNPRIVILEGED_PORT = 1_024;
const LAST_PORT = 65_535;

const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
/** A last label of letters alone: no spelling of an IPv4 address ends in one, and neither do encoded foreign scripts. */
const TOP_LABEL = /^[a-z]{2,63}$/;
/** Names that mean something inside a network only (RFC 6761, 6762, 7686, 8375; ICANN's `internal`; what routers use). */
const INNER = [
  ["local", "localhost", "localdomain", "internal", "intranet", "private", "corp", "home", "lan"],
  ["arpa", "onion", "invalid"],
].flat();

/** Path segments of characters that nobody encodes (RFC 3986 §2.3). */
const PATH = "(?:\\/[A-Za-z0-9._~-]+)*";
const PUBLIC_URL = new RegExp(`^https:\\/\\/([A-Za-z0-9.-]+)(?::443)?(${PATH})\\/?$`, "i");
const LOCAL_URL = new RegExp(`^(http:\\/\\/(?:127\\.0\\.0\\.1|localhost):([1-9]\\d{3,4}))(${PATH})\\/?$`);

/**
 * The address without its trailing slash, or what it must be; the sentence repeats nothing of it. `setting`: where the list
 * of hosts comes from.
 */
export function parseBaseUrl(
  text: string,
  { hosts, allowLocal }: BaseUrlRules,
  setting = "UPSTREAM_HOSTS",
): Result<string, string> {
  if (text.length > MAX_URL_CHARS) return err(`must not be longer than ${MAX_URL_CHARS} characters`);
  const local = allowLocal ? LOCAL_URL.exec(text) : null;
  if (local) {
    const [, origin = "", port, path = ""] = local;
    const fits = Number(port) >= FIRST_UNPRIVILEGED_PORT && Number(port) <= LAST_PORT;
    return fits && isPlain(path) ? ok(origin + path) : err("must have a port from 1024 to 65535 and a plain path");
  }
  const parts = PUBLIC_URL.exec(text);
  if (!parts) {
    return err(
      "must be an https address of a host name and at most a plain path: no other scheme or port, no credentials, query, fragment or unusual characters",
    );
  }
  const [, spelled = "", path = ""] = parts;
  const host = spelled.toLowerCase();
  if (!isPublicName(host))
    return err("must name a public host: no IP address in any spelling, no name of an inner network");
  if (!hosts.some((allowed) => matchesHost(allowed, host))) {
    return err(`names a host that this gateway may not call; the deployment's ${setting} lists those it may`);
  }
  return isPlain(path) ? ok(`https://${host}${path}`) : err("must not have . or .. in its path");
}

/** Reads a list of hosts, separated by commas; the error is a sentence about the setting that holds it. */
export function readHosts(text: string, setting = "UPSTREAM_HOSTS"): Result<readonly string[], string> {
  const hosts = text.split(",").flatMap((entry) => {
    const host = entry.trim().toLowerCase();
    return host === "" ? [] : [host];
  });
  const wrong = hosts.findIndex((host) => !isPublicName(host.startsWith("*.") ? host.slice(2) : host));
  if (wrong === -1) return ok(hosts);
  return err(`${setting} is malformed: its entry ${wrong + 1} is not a public host name, or one behind \`*.\`.`);
}

/** A name as the public DNS has it, of two labels at least; not an address, not of an inner network, not an encoded one. */
function isPublicName(host: string): boolean {
  const labels = host.split(".");
  const top = labels.at(-1) ?? "";
  return (
    host.length <= MAX_HOST_CHARS &&
    labels.length >= 2 &&
    labels.every((label) => LABEL.test(label) && label.slice(2, 4) !== "--") &&
    TOP_LABEL.test(top) &&
    !INNER.includes(top)
  );
}

function isPlain(path: string): boolean {
  return path.split("/").every((segment) => segment !== "." && segment !== "..");
}
