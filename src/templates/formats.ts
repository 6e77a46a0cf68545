/** Formats of JSON Schema's texts (draft 2020-12, validation §7.3), each looked at in time that is linear in the text. Pure. */

/** The longest that any of them is held against; a URI of more is none that anybody fetches. */
const MAX_CHARS = 2_048;
const HOSTNAME = /^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/i;
const IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/;
const LOCAL_PART = /^(?=.{1,64}$)[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*$/;
const TIME = /^(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:z|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/i;
const DURATION = /^P(?!$)(?:\d+W|(?:\d+Y(?!\d+D))?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H(?!\d+S))?(?:\d+M)?(?:\d+S)?)?)$/;
const URI = /^[a-z][a-z0-9+.-]*:(?:%[0-9a-f]{2}|[\w.~:/?#[\]@!$&'()*+,;=-])*$/i;
const UUID = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

const isDate = (text: string): boolean => {
  if (!/^\d{4}-\d\d-\d\d$/.test(text)) return false;
  const at = Date.parse(text);
  // There is no 30 February, though the runtime would make a March of it.
  return !Number.isNaN(at) && new Date(at).toISOString().startsWith(text);
};

const KNOWN = {
  date: isDate,
  time: (text) => TIME.test(text),
  "date-time": (text) => isDate(text.slice(0, 10)) && /^t$/i.test(text.charAt(10)) && TIME.test(text.slice(11)),
  duration: (text) => DURATION.test(text),
  email: (text) => {
    const at = text.lastIndexOf("@");
    return LOCAL_PART.test(text.slice(0, Math.max(at, 0))) && HOSTNAME.test(text.slice(at + 1));
  },
  hostname: (text) => HOSTNAME.test(text),
  ipv4: (text) => IPV4.test(text),
  ipv6: (text) => /^[0-9a-f:.]{2,45}$/i.test(text) && URL.canParse(`http://[${text}]`),
  uri: (text) => URI.test(text),
  uuid: (text) => UUID.test(text),
} satisfies Record<string, (text: string) => boolean>;

export type Format = keyof typeof KNOWN;
export const FORMATS = Object.keys(KNOWN) as readonly Format[];

export function hasFormat(text: string, format: Format): boolean {
  return text.length <= MAX_CHARS && KNOWN[format](text);
}
