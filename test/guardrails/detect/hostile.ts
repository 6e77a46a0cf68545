import { KEY_NAMES, PASSWORD_NAMES } from "../../../src/guardrails/detect/assigned.ts";
import { NAMED_RULES, SECRET_RULES } from "../../../src/guardrails/detect/secret-rules.ts";

/** D-09: what makes pattern engines go back and forth, repeated. */
export const HOSTILE: readonly string[] = [
  ..."a@ a@b. a@b.co x@- 1- 1. 1: : :: 0x . %40 %2540 % １ \u0301 a\u0301 \ufdfa \u200b 张. 秀英.胡79@ + ( (1) +1( A= A:A=".split(
    " ",
  ),
  ..."eyJ eyJ- eyJhbGciOiJIUzI1NiJ9.eyJ AL47 GB82WEST sk- sl. fm2_ xoxb-1- xoxe.xoxb- MII MIIEpAIBAAKa Bearer".split(
    " ",
  ),
  ..."-----BEGIN -----END :// http://a:b http://a:b@ ::ffff:1.2.3.4, 1.2.3.4, 13800138000, 138-0013-8000, password= password=' token= passwordpassword".split(
    " ",
  ),
  "1 ",
  " ",
  "\n",
  "\ud835",
  "😀",
  "4111 1111 1111 1111 ",
  "4111111111111112 ",
  "GB82 WEST 1234 5698 7654 32 ",
  "11010519491231002X ",
  "call 1 ",
  "phone: 12 ",
  "-----BEGIN PRIVATE KEY-----\n",
  `${"M".repeat(24)}.`,
  `ops_eyJ${"a".repeat(190)}`,
  "1",
  "A",
  "QUJD+/",
  "deadbeef",
  ..."\\ \\n \\u0040 \\u00 1( (( )( 1)1) 1/ 12:34: +( ((((1 ://a: ://a:b@ ZXlK telegr= twitter= webhook.office.com/webhookb2/ s. iban ibanDE89".split(
    " ",
  ),
  "12 34 56 78 ",
  "1 - 2 / ",
  "DE89  3704  ",
  "110105 1949 1231 002X ",
  "(123) 456-789 ",
  "123-45-678 ",
  "tel1 ",
  "+12 34  56 ",
  "1::2 ",
  "fe80::1 ",
  "\udb40\udc41",
  "é@é.é",
  "twitter a b c d e f ",
  '\\"token\\":\\"',
  "MII\n   ",
  `${"a".repeat(64)}@`,
  `${"1".repeat(19)}-`,
  "[EMAIL_1] ",
];
/** The words at which a rule for secrets is tried. */
export const KEYWORDS: readonly string[] = [
  ...new Set([...SECRET_RULES, ...NAMED_RULES].map(({ keyword }) => keyword)),
  ...KEY_NAMES,
  ...PASSWORD_NAMES,
];

/** Twenty patterns of one's own that look far before they know. */
export const OWN_SOURCES: readonly string[] = [
  ..."[a-z]{3,128}[0-9] .{1,125}Z [ab]*c|[ab]+d [0-9]{1,64}[A-F] \\w{1,100}@ [^x]{1,127}x \\d{3}-\\d{4} AB-[0-9]{6} \\S{20,100}% .*end".split(
    " ",
  ),
  ..."[\\u4e00-\\u9fff]{2,100}号 (?:ab|a|b){1,20}z [a-z]+\\.[a-z]+\\.[a-z]+Q \\b\\w{5,50}\\b \\s{1,100}\\d [-_.:/@]{1,128}# [()]{1,128}x".split(
    " ",
  ),
  "(?i)[a-z ]{1,120}!",
  "%[0-9A-F]{2}",
  "=[^=]{1,120}=",
];
