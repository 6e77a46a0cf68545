import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DETECTED_TYPES, detect } from "../../../src/guardrails/detect/detect.ts";
import { SECRET_RULES } from "../../../src/guardrails/detect/secret-rules.ts";
import { mintKey } from "../../../src/identity/api-key.ts";

/** The found places of a text, as `TYPE=what stands there`. */
const found = (text: string, types: readonly string[] = DETECTED_TYPES): string[] =>
  detect(text, types).map(({ start, end, type }) => `${type}=${text.slice(start, end)}`);

describe("what is found, with its exact place (made up for this table)", () => {
  it.each([
    // E-mail
    ["write to bob@x.co.uk.", "EMAIL=bob@x.co.uk"],
    ["<o'brien+tag@sub.example.museum>", "EMAIL=o'brien+tag@sub.example.museum"],
    ["请发到wang_fang@qq.com，谢谢", "EMAIL=wang_fang@qq.com"],
    ["请发到wang_fang@qq.com谢谢", "EMAIL=wang_fang@qq.com"],
    ["联系 秀英.胡79@example.com", "EMAIL=秀英.胡79@example.com"],
    ["用户@例子.中国", "EMAIL=用户@例子.中国"],
    ["josé.núñez@correo.es", "EMAIL=josé.núñez@correo.es"],
    ["почта@пример.рф", "EMAIL=почта@пример.рф"],
    ["a@xn--e1afmkfd.xn--p1ai", "EMAIL=a@xn--e1afmkfd.xn--p1ai"],
    // Telephone
    ["+1 (824) 271-6640 ext. 5", "PHONE=+1 (824) 271-6640 ext. 5"],
    ["+49 (0)30 1234567", "PHONE=+49 (0)30 1234567"],
    ["+33 1 23 45 67 89", "PHONE=+33 1 23 45 67 89"],
    ["0044 20 7946 0958", "PHONE=0044 20 7946 0958"],
    ["Doe,202-555-0123,NY", "PHONE=202-555-0123"],
    ["Tel.: 030/12345678", "PHONE=030/12345678"],
    ["You can call 73 448 266", "PHONE=73 448 266"],
    ["2813882583 mobile", "PHONE=2813882583"],
    ["手机13800138000。", "PHONE=13800138000"],
    ["(+86)13800138000", "PHONE=(+86)13800138000"],
    ["座机0755-65987970", "PHONE=0755-65987970"],
    ["號碼 １３８-００１３-８０００", "PHONE=１３８-００１３-８０００"],
    ["(+1 (718) 295-7162)", "PHONE=+1 (718) 295-7162"],
    ["（138 6233 7024）", "PHONE=138 6233 7024"],
    ["+1(668)386-9602", "PHONE=+1(668)386-9602"],
    ["(668) 386-9602 x3261", "PHONE=(668) 386-9602 x3261"],
    ["668/386-9602", "PHONE=668/386-9602"],
    ["+91-9131376429", "PHONE=+91-9131376429"],
    ["+44  20  2054  7450", "PHONE=+44  20  2054  7450"],
    ["+86 755 35880858", "PHONE=+86 755 35880858"],
    ["030 / 61529465", "PHONE=030 / 61529465"],
    ["03-3531-1920", "PHONE=03-3531-1920"],
    ["8 (916) 875-24-58", "PHONE=8 (916) 875-24-58"],
    ["011 44 20 1502 6580", "PHONE=011 44 20 1502 6580"],
    ["# 138-7598-9413", "PHONE=138-7598-9413"],
    ["tel17378739715", "PHONE=17378739715"],
    // Cards
    ["4111.1111.1111.1111", "CREDIT_CARD=4111.1111.1111.1111"],
    ["4111  1111  1111  1111", "CREDIT_CARD=4111  1111  1111  1111"],
    ["4111 1111 1111 1111", "CREDIT_CARD=4111 1111 1111 1111"],
    ["3782 822463 10005", "CREDIT_CARD=3782 822463 10005"],
    ["30569309025904", "CREDIT_CARD=30569309025904"],
    ["卡号6228481130423540917尾号", "CREDIT_CARD=6228481130423540917"],
    ["1,4111111111111111,2", "CREDIT_CARD=4111111111111111"],
    // Accounts and identities
    ["DE89 3704 0044 0532 0130 00", "IBAN=DE89 3704 0044 0532 0130 00"],
    ["fr1420041010050500013m02606", "IBAN=fr1420041010050500013m02606"],
    ["IBANDE89.3704.0044.0532.0130.00", "IBAN=DE89.3704.0044.0532.0130.00"],
    ["ID11010519491231002X", "CN_ID=11010519491231002X"],
    ["110105 1949 1231 002X", "CN_ID=110105 1949 1231 002X"],
    ["Here: 123-45-6789", "US_SSN=123-45-6789"],
    ["ssn 123 45 6789", "US_SSN=123 45 6789"],
    ["身份证11010519491231002X。", "CN_ID=11010519491231002X"],
    ["110105 19491231 002x", "CN_ID=110105 19491231 002x"],
    // Addresses of machines
    ["10.1.2.0/24", "IP=10.1.2.0"],
    ["src=10.0.0.1:443", "IP=10.0.0.1"],
    ["http://[2001:db8::1]:8080/", "IP=2001:db8::1"],
    ["::ffff:10.0.0.1", "IP=::ffff:10.0.0.1"],
    ["fe80::1%eth0", "IP=fe80::1"],
    // Escapes of JSON inside JSON
    ["a\\nbob@x.com\\n", "EMAIL=bob@x.com"],
    ["bob\\u0040x.com", "EMAIL=bob\\u0040x.com"],
    ['{\\"password\\":\\"hunter2!\\"}', "SECRET=hunter2!"],
    // Secrets by their names
    ["Dropbox token = ocgaaqebred3rbj", "SECRET=ocgaaqebred3rbj"],
    ["message_bird.key = '27c3312d-5689-1292-fd34-aa3a2a88d498'", "SECRET=27c3312d-5689-1292-fd34-aa3a2a88d498"],
    ['password="hunter2!"', "SECRET=hunter2!"],
    ["密码：Abc12345", "SECRET=Abc12345"],
    ['"api_key": "9aF3kLmQ02xYbTz81WcD"', "SECRET=9aF3kLmQ02xYbTz81WcD"],
    ["postgres://app:p4ssw0rd@db/x", "SECRET=p4ssw0rd"],
  ])("%s", (text, expected) => {
    expect(found(text)).toEqual([expected]);
  });
});

describe("what is nothing", () => {
  it.each([
    "see icon@2x.png",
    `AKIA${"IOSFODNN7"}EXAMPLE`,
    'AssemblyVersion("3.0.0.0"), software 2.4.8.1',
    "IBAN DE89 3704 0044 0532 0130 01",
    "05 65 84 07 37 74",
    "cell 1234567 is empty",
    "npm i @hono/zod-openapi@18.5.5",
    "git@github.com:org/repo.git",
    "merged into main@a720e41",
    "Chrome/130.0.1.2 Safari/537.36",
    "version 1.2.3.4, section 1.2.3.4, v1.2.3.4",
    "oid 1.3.6.1.4.1",
    "std::vector<int> a::before x[1::2] arr[::2]",
    "12:30:45 00:1a:2b:3c:4d:5e",
    "ISBN 9780306406157, ISBN 978-3-16-148410-0",
    '"created_at": 1761605728418, ts=1745959196, 20260518004835',
    "550e8400-e29b-41d4-a716-446655440000",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "sha512-FyvakeBN01FbT1Pzk338o4qmqapniJ+yQjikw6BxrwsRykeQhTHDSlNBA1P9QE8tJtt6OlP6cvlnNtil9MtTLQ==",
    "reach 1000000 users, call stack 7348212, contact 2024 2025",
    "call at 2026-05-18 10:30:11",
    "I'd like to call a taxi to 03 2657 Koontz Lane",
    "Order #1276413059, order 4111111111111111, 订单号:13800138000",
    "4111111111111112",
    "SF588827620088",
    "lat 40.712776, -74.005974 loss=3.7309328102504976",
    "$1,234,567.89, 1 000 000 and 12.345,67",
    "000-12-3456 666-12-3456 123-00-4567 123-45-0000",
    "11010519491231002Y 110105194912310021",
    "GB82WEST12345698765433",
    "const token = await getToken(user1); password = user.password1;",
    // biome-ignore lint/suspicious/noTemplateCurlyInString: as it stands in a file of settings
    "password: process.env.PASSWORD1, apiKey: ${API_KEY_1}, password: ********",
    "ANTHROPIC_API_KEY=<your-key> OPENAI_API_KEY=YOUR_API_KEY",
    "max_tokens: 4096, secretName: my-app-secrets-v2",
    "Bearer authentication-is-required-here",
  ])("%s", (text) => {
    expect(found(text)).toEqual([]);
  });
});

describe("offsets", () => {
  const VALUES: readonly (readonly [type: string, value: string])[] = [
    ["EMAIL", "bob@example.com"],
    ["PHONE", "+44 20 7946 0958"],
    ["CREDIT_CARD", "4111 1111 1111 1111"],
    ["IBAN", "DE89370400440532013000"],
    ["CN_ID", "11010519491231002X"],
    ["IP", "10.20.30.40"],
  ];
  const HIDDEN = ["", "", "", "\u200b", "\u2060\ufeff", "\u{e0041}"];
  const BESIDE = ["", " ", "😀", " 𝐛 ", "谢谢", "(", "[EMAIL_7] ", "\u200b", "\\n", ": "];
  const wide = (text: string): string =>
    [...text].map((sign) => (sign === " " ? "\u3000" : String.fromCharCode(sign.charCodeAt(0) + 0xfee0))).join("");

  it("N-05: a value hidden in any way is found where it stands, and nothing is found once it is masked", () => {
    const hidden = fc.tuple(
      fc.constantFrom(...VALUES),
      fc.array(fc.constantFrom(...HIDDEN), { minLength: 24, maxLength: 24 }),
      fc.boolean(),
    );
    fc.assert(
      fc.property(
        fc.constantFrom(...BESIDE),
        hidden,
        fc.constantFrom(...BESIDE),
        (before, [value, signs, isWide], after) => {
          const units = [...(isWide ? wide(value[1]) : value[1])];
          const written = units.map((unit, at) => (at === 0 ? unit : `${signs[at] ?? ""}${unit}`)).join("");
          const text = `${before}${written}${after}`;
          expect(found(text)).toEqual([`${value[0]}=${written}`]);
          expect(found(`${before}[${value[0]}_1]${after}`)).toEqual([]);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("never has half of a character, whatever the text", () => {
    const pieces = fc.constantFrom(
      ...VALUES.map(([, value]) => value),
      ...BESIDE,
      "\ud835",
      "\udc00",
      "𝟏𝟐𝟑",
      "%40",
      "password=aB3$𝐛ef9",
    );
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 8 }), (parts) => {
        const text = parts.join("");
        let last = 0;
        for (const { start, end } of detect(text, DETECTED_TYPES)) {
          expect(start).toBeGreaterThanOrEqual(last);
          expect(end).toBeGreaterThan(start);
          for (const at of [start, end])
            expect(/^[\ud800-\udbff][\udc00-\udfff]$/.test(text.slice(at - 1, at + 1))).toBe(false);
          last = end;
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe("secrets by their shape", () => {
  it("every rule finds what it describes, and only as a whole", () => {
    const silent = SECRET_RULES.filter((rule) => !rule.hidden).filter((rule) => {
      const shape = rule.shape.source.slice(0, -"(?![A-Za-z0-9])".length);
      const shaped = fc.stringMatching(new RegExp(`^${shape}$`));
      // A sample may happen to be too plain for its rule; not every one is.
      return ![6, 7, 8, 9, 10, 11].some((seed) => {
        const [sample = ""] = fc.sample(shaped, { numRuns: 1, seed });
        return detect(`key ${sample} here`, ["SECRET"]).some(({ end }) => end === 4 + sample.length);
      });
    });
    expect(silent.map(({ id }) => id)).toEqual([]);
  });

  it("no rule repeats without end or repeats a repetition: a try is bounded", () => {
    for (const { id, shape } of SECRET_RULES) {
      const bare = shape.source.replace(/\\./g, "x").replace(/\[[^\]]*\]/g, "x");
      expect(bare, id).not.toMatch(/[*+]|\{\d+,\}|\)\{\d{2}/);
    }
  });

  it("K-13 takes a key of this gateway's own", async () => {
    const { key } = await mintKey("a tag secret", 1_795_316_968_171);
    expect(found(`use ${key} for that`)).toEqual([`SECRET=${key}`]);
  });

  it("takes a private key with its armour, also when it is cut off", () => {
    const body = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgyK82YrlPyJb7FLsk\n".repeat(3);
    const begin = `-----BEGIN ${"PRIVATE"} KEY-----\n`;
    const whole = `${begin}${body}-----END ${"PRIVATE"} KEY-----`;
    expect(found(`x ${whole} y`)).toEqual([`SECRET=${whole}`]);
    expect(found(`x ${begin}${body}`)).toEqual([`SECRET=${(begin + body).trimEnd()}`]);
  });

  it("takes a JSON Web Token and the key beside an identifier", () => {
    const token = [
      "eyJhbGciOiJIUzI1NiJ9",
      "eyJzdWIiOiIxMjM0NTY3ODkwIn0",
      "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    ].join(".");
    expect(found(`cookie ${token}; path=/`)).toEqual([`SECRET=${token}`]);
    const [id, key] = [["AK", "IAQ3EGRIMTA7JXN2WD"].join(""), "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzK3mPLq0Lw"];
    expect(found(`${id}\n${key}`)).toEqual([`SECRET=${id}`, `SECRET=${key}`]);
  });
});

describe("N-05: what hides a value", () => {
  it.each([
    ["alice%40example.com", "EMAIL=alice%40example.com"],
    ["alice%2540example.com", "EMAIL=alice%2540example.com"],
    ["alice＠example．com", "EMAIL=alice＠example．com"],
    ["ali\u200bce@exa\u2060mple.com", "EMAIL=ali\u200bce@exa\u2060mple.com"],
    ["\u202ealice@example.com", "EMAIL=alice@example.com"],
    ["аliсе@ехample.com", "EMAIL=аliсе@ехample.com"],
    ["jose\u0301@correo.es", "EMAIL=jose\u0301@correo.es"],
    ["４１１１１１１１１１１１１１１１", "CREDIT_CARD=４１１１１１１１１１１１１１１１"],
    ["4111\u200b1111\ufeff1111\u00ad1111", "CREDIT_CARD=4111\u200b1111\ufeff1111\u00ad1111"],
    ["٤١١١١١١١١١١١١١١١", "CREDIT_CARD=٤١١١١١١١١١١١١١١١"],
    ["𝟒111111111111111", "CREDIT_CARD=𝟒111111111111111"],
    ["１１０１０５１９４９１２３１００２Ｘ", "CN_ID=１１０１０５１９４９１２３１００２Ｘ"],
    ["call +1‑202‑555‑0123", "PHONE=+1‑202‑555‑0123"],
  ])("%s", (text, expected) => {
    expect(found(text)).toEqual([expected]);
  });
});

describe("what callers may rely on", () => {
  const pieces = fc.constantFrom(
    ..."a@b.co 4111111111111111 +1 202-555-0123 10.0.0.1 fe80::1 password=a1b2c3 13800138000 %40 １ \u200b \u0301 张 . , : - ( ) eyJ sk-".split(
      " ",
    ),
    " ",
    "\n",
    "\ud835",
    "😀",
  );
  const texts = fc.array(pieces, { maxLength: 40 }).map((parts) => parts.join(""));

  it("findings are in order, inside the text, and do not overlap", () => {
    fc.assert(
      fc.property(fc.oneof(texts, fc.string({ unit: "binary", maxLength: 60 })), (text) => {
        let from = 0;
        for (const { start, end } of detect(text, DETECTED_TYPES)) {
          expect(start).toBeGreaterThanOrEqual(from);
          expect(end).toBeGreaterThan(start);
          from = end;
        }
        expect(from).toBeLessThanOrEqual(text.length);
      }),
      { numRuns: 300 },
    );
  });

  it("only the types that were asked for are told", () => {
    const text = "bob@x.co 4111111111111111 10.0.0.1";
    expect(found(text, ["IP"])).toEqual(["IP=10.0.0.1"]);
    expect(found(text, [])).toEqual([]);
    expect(found(text, ["unknown"])).toEqual([]);
  });

  it("the surer, then the longer of two wins", () => {
    expect(found("13800138000@qq.com")).toEqual(["EMAIL=13800138000@qq.com"]);
    expect(found("password=alice1@example.com")).toEqual(["EMAIL=alice1@example.com"]);
  });
});
