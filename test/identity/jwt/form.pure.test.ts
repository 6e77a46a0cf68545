import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  fromBase64Url,
  looksLikeToken,
  MAX_TOKEN_CHARS,
  parseToken,
  toBase64Url,
} from "../../../src/identity/jwt/form.ts";
import { expectAtMost } from "../../support/processor-time.ts";
import { encode } from "./made.ts";

const HEADER = '{"alg":"ES256","kid":"k","typ":"at+jwt"}';
const CLAIMS = '{"iss":"i","exp":1}';
const SIGNATURE = toBase64Url(new Uint8Array(64).fill(7));
const token = (header = HEADER, claims = CLAIMS, signature = SIGNATURE) =>
  `${encode(header)}.${encode(claims)}.${signature}`;

describe("parseToken", () => {
  it("reads header, claims, and what the signature is over", () => {
    const parsed = parseToken(token());
    expect(parsed).toMatchObject({ alg: "ES256", kid: "k", typ: "at+jwt", claims: { iss: "i", exp: 1 } });
    expect(new TextDecoder().decode(parsed?.signed)).toBe(`${encode(HEADER)}.${encode(CLAIMS)}`);
    expect(parsed?.signature).toEqual(new Uint8Array(64).fill(7));
    expect(parseToken(token('{"alg":"HS256"}'))).toMatchObject({ alg: "HS256", kid: null, typ: null });
  });

  const padded = encode('{"alg":"ES256","kid":"k1","typ":"at+jwt"}');
  it.each<[string, string]>([
    ["padding", `${padded}=.${encode(CLAIMS)}.${SIGNATURE}`],
    ["padding at the end", `${token()}==`],
    ["the other alphabet's plus", token().replace(/.$/, "+")],
    ["the other alphabet's slash", token(HEADER, CLAIMS, `/${SIGNATURE.slice(1)}`)],
    ["a space in front", ` ${token()}`],
    ["a space inside", token().replace(".", " .")],
    ["a line feed at the end", `${token()}\n`],
    ["a carriage return inside", token().replace(".", "\r.")],
    ["trailing garbage", `${token()}!`],
    ["a letter beyond ASCII", `${token()}é`],
    ["a full-width letter", token(HEADER, CLAIMS, `Ａ${SIGNATURE.slice(1)}`)],
    ["four parts", `${token()}.AAAA`],
    ["five parts, as of a JWE", `${encode(HEADER)}.AAAA.AAAA.AAAA.AAAA`],
    ["two parts", `${encode(HEADER)}.${encode(CLAIMS)}`],
    ["one part", encode(HEADER)],
    ["an empty header", `.${encode(CLAIMS)}.${SIGNATURE}`],
    ["empty claims", `${encode(HEADER)}..${SIGNATURE}`],
    ["an empty signature", token(HEADER, CLAIMS, "")],
    ["a fourth, empty part", `${token()}.`],
    ["a part of an impossible length", token(HEADER, CLAIMS, `${SIGNATURE}AAA`)],
    ["bits after the last byte of the signature", token(HEADER, CLAIMS, SIGNATURE.replace(/.$/, "x"))],
    ["the beginning alone", "eyJ"],
    ["nothing", ""],
    ["a key of ours", "sk-sluice-01k0000000000000000000000-0000000000000000000000000000000000000000000000"],
  ])("J-15 refuses %s", (_, text) => {
    expect(parseToken(text)).toBeNull();
  });

  it("J-15 takes a token of the longest length, and none that is longer", () => {
    const filled = (chars: number) => `{"iss":"${"x".repeat(chars)}"}`;
    const room = MAX_TOKEN_CHARS - token(HEADER, filled(0)).length;
    const longest = token(HEADER, filled(Math.floor((room * 3) / 4)));
    expect(longest.length).toBeGreaterThan(MAX_TOKEN_CHARS - 4);
    expect(longest.length).toBeLessThanOrEqual(MAX_TOKEN_CHARS);
    expect(parseToken(longest)).not.toBeNull();
    expect(parseToken(token(HEADER, filled(Math.floor((room * 3) / 4) + 4)))).toBeNull();
  });

  it("J-15 refuses 100 KB of anything in a few times what the longest good one takes", () => {
    const words = Object.fromEntries(Array.from({ length: 400 }, (_, i) => [`c${i}`, i]));
    const good = token(HEADER, JSON.stringify(words));
    expect(parseToken(good)).not.toBeNull();
    const often = (text: string) => () => {
      for (let i = 0; i < 200; i++) parseToken(text);
    };
    const large = 100 * 1024;
    const deep = MAX_TOKEN_CHARS / 2;
    const texts = [
      "eyJ".repeat(large / 3),
      `eyJ${".".repeat(large)}`,
      `eyJ${"A".repeat(large)}`,
      token(HEADER, `{"a":${"[".repeat(deep)}`),
      token(HEADER, `{"a":${"[".repeat(deep / 2)}${"]".repeat(deep / 2)}}`),
      token(HEADER, `{${'"a":1,'.repeat(deep / 6)}"b":1}`),
      token(HEADER, `{"a":"${'\\"'.repeat(deep / 2)}`),
    ];
    for (const text of texts) {
      expect(parseToken(text)).toBeNull();
      expectAtMost(10, often(text), often(good), text.slice(0, 40));
    }
  });

  it.each([
    ["alg", '{"alg":"ES256","alg":"none","kid":"k"}'],
    ["alg in another spelling", '{"alg":"ES256","kid":"k","\\u0061lg":"none"}'],
    ["kid", '{"alg":"ES256","kid":"k","kid":"k"}'],
    ["what nobody looks at", '{"alg":"ES256","kid":"k","x":{"y":[{"z":1,"z":1}]}}'],
    ["a name with an escape, though once", '{"alg":"ES256","kid":"k","\\u0061":1}'],
    ["the empty name", '{"alg":"ES256","":1,"":2}'],
    ["__proto__", '{"alg":"ES256","__proto__":1,"__proto__":2}'],
  ])("J-14 refuses a header with a name twice or escaped: %s", (_, header) => {
    expect(parseToken(token(header))).toBeNull();
  });

  it.each([
    ["exp", '{"exp":1,"exp":2}'],
    ["sub", '{"sub":"a","exp":1,"sub":"b"}'],
    ["a claim inside of a claim", '{"a":{"roles":["x"],"roles":["y"]}}'],
    ["a claim inside of a list", '{"a":[[{"b":1,"c":2,"b":1}]]}'],
    ["an object that holds others", '{"a":{"b":1,"c":{"d":1}},"e":":","a":{"b":1}}'],
  ])("J-14 refuses claims with %s twice", (_, claims) => {
    expect(parseToken(token(HEADER, claims))).toBeNull();
  });

  /** A value as JSON text, and whether one of its objects has a name twice, or written with an escape. */
  type Written = { readonly text: string; readonly twice: boolean };
  const spell = (text: string, escaped: boolean) =>
    escaped
      ? `"${Array.from(text, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`).join("")}"`
      : JSON.stringify(text);
  const seldom = fc.integer({ max: 19, min: 0 }).map((one) => one === 0);
  const word = fc.constantFrom("a", "b", ":", "{", ",", "[1", "__proto__", "constructor", "toString", "");
  const { object } = fc.letrec<{ object: Written; value: Written }>((tie) => ({
    value: fc.oneof(
      { depthSize: "small" },
      fc.constantFrom("1", "null", '"x"', '"{\\"a\\":1}"', '":"', '"\\\\"').map((text) => ({ text, twice: false })),
      fc.array(tie("value"), { maxLength: 3 }).map((inner) => ({
        text: `[${inner.map(({ text }) => text).join(" , ")}]`,
        twice: inner.some(({ twice }) => twice),
      })),
      tie("object"),
    ),
    object: fc.array(fc.tuple(word, seldom, tie("value")), { maxLength: 4 }).map((members) => ({
      text: `{${members.map(([name, escaped, { text }]) => `${spell(name, escaped)} :${text}`).join(",")}}`,
      twice:
        new Set(members.map(([name]) => name)).size < members.length ||
        members.some(([name, escaped, { twice }]) => twice || spell(name, escaped).includes("\\")),
    })),
  }));
  it("J-14 refuses claims if and only if one of their objects has a name twice, or an escaped one", () => {
    fc.assert(
      fc.property(object, ({ text, twice }) => {
        expect(parseToken(token(HEADER, text)) === null).toBe(twice);
      }),
      { numRuns: 2_000 },
    );
  });

  it.each([
    ["crit with a name we know", '{"alg":"ES256","kid":"k","crit":["exp"]}'],
    ["an empty crit", '{"alg":"ES256","kid":"k","crit":[]}'],
    ["crit that is null", '{"alg":"ES256","kid":"k","crit":null}'],
    ["crit and b64", '{"alg":"ES256","kid":"k","crit":["b64"],"b64":false}'],
    ["b64 alone", '{"alg":"ES256","kid":"k","b64":false}'],
  ])("J-10 refuses %s", (_, header) => {
    expect(parseToken(token(header))).toBeNull();
  });

  it.each([
    ["a nested token", token('{"alg":"ES256","kid":"k","cty":"JWT"}')],
    ["a token whose payload is a token", token(HEADER, token())],
    ["an encrypted one's header", token('{"alg":"dir","enc":"A256GCM","kid":"k"}')],
    ["a compressed one's header", token('{"alg":"ES256","kid":"k","zip":"DEF"}')],
  ])("J-11 refuses %s", (_, text) => {
    expect(parseToken(text)).toBeNull();
  });

  it.each([
    ["a header without alg", token('{"kid":"k"}')],
    ["alg that is no text", token('{"alg":["ES256"],"kid":"k"}')],
    ["kid that is no text", token('{"alg":"ES256","kid":1}')],
    ["kid that is null", token('{"alg":"ES256","kid":null}')],
    ["an empty kid", token('{"alg":"ES256","kid":""}')],
    ["a kid of 257 characters", token(`{"alg":"ES256","kid":"${"k".repeat(257)}"}`)],
    ["typ that is no text", token('{"alg":"ES256","kid":"k","typ":null}')],
    ["alg of a prototype", token('{"__proto__":{"alg":"ES256"},"kid":"k"}')],
    ["claims that are a list", token(HEADER, "[]")],
    ["claims that are null", token(HEADER, "null")],
    ["claims that are no JSON", token(HEADER, "{'a':1}")],
    ["text after the claims", token(HEADER, `${CLAIMS} x`)],
    ["claims 33 levels deep", token(HEADER, `{"a":${"[".repeat(32)}${"]".repeat(32)}}`)],
    ["a byte order mark", token(HEADER, `\ufeff${CLAIMS}`)],
    ["no UTF-8", `${encode(HEADER)}.${toBase64Url(new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))}.AAAA`],
  ])("refuses %s", (_, text) => {
    expect(parseToken(text)).toBeNull();
  });

  it("takes claims 32 levels deep", () => {
    expect(parseToken(token(HEADER, `{"a":${"[".repeat(31)}${"]".repeat(31)}}`))).not.toBeNull();
  });

  it("never throws", () => {
    const text = fc.oneof(fc.string({ unit: "binary" }), fc.stringMatching(/^eyJ[A-Za-z0-9_.-]*$/));
    fc.assert(fc.property(text, (one) => void parseToken(one)));
  });

  it("looks at the beginning alone to tell a key from a token", () => {
    expect(looksLikeToken(token())).toBe(true);
    expect(looksLikeToken("sk-sluice-0")).toBe(false);
  });
});

describe("base64url", () => {
  it("reads what it writes, as others write it, and nothing else", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), (bytes) => {
        const text = toBase64Url(bytes);
        expect(text).toBe(Buffer.from(bytes).toString("base64url"));
        expect(fromBase64Url(text)).toEqual(bytes);
      }),
    );
    fc.assert(
      fc.property(fc.stringMatching(/^[A-Za-z0-9_-]{1,6}$/), (text) => {
        const bytes = fromBase64Url(text);
        expect(bytes === null ? null : toBase64Url(bytes)).toBe(bytes === null ? null : text);
        expect(bytes === null).toBe(Buffer.from(text, "base64url").toString("base64url") !== text);
      }),
    );
  });
});
