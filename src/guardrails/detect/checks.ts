/** Check digits and number plans: what makes a row of digits a card, an account, an identity. Pure functions over digits. */

/** ISO/IEC 7812-1 annex B. */
export function passesLuhn(digits: string): boolean {
  let sum = 0;
  let double = false;
  for (let at = digits.length - 1; at >= 0; at--) {
    let digit = digits.charCodeAt(at) - 48;
    if (double) digit = digit > 4 ? digit * 2 - 9 : digit * 2;
    sum += digit;
    double = !double;
  }
  return sum % 10 === 0;
}

/** Issuers by their prefixes, with the lengths they use; `rare` ones want a word about cards beside them. */
const ISSUERS: readonly {
  readonly prefix: RegExp;
  readonly lengths: readonly number[];
  readonly rare?: readonly number[];
}[] = [
  { prefix: /^4/, lengths: [16, 19], rare: [13] },
  { prefix: /^(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)/, lengths: [16] },
  { prefix: /^3[47]/, lengths: [15] },
  { prefix: /^(?:6011|64[4-9]|65)/, lengths: [16, 19] },
  { prefix: /^(?:30[0-5]|3095|3[689])/, lengths: [14], rare: [16, 19] },
  { prefix: /^35(?:2[89]|[3-8])/, lengths: [16], rare: [19] },
  { prefix: /^(?:2131|1800)/, lengths: [], rare: [15] },
  { prefix: /^(?:62|81)/, lengths: [16, 17, 18, 19] },
  { prefix: /^9[1-9]|^220[0-4]|^60[89]|^65[0-3]|^508/, lengths: [], rare: [16, 19] },
  { prefix: /^(?:50[1-4]|5[678]|6304|67)/, lengths: [16], rare: [] },
  { prefix: /^(?:50|5[6-9]|6[0-9])/, lengths: [], rare: [12, 13, 14, 15, 16, 17, 18, 19] },
  { prefix: /^0604/, lengths: [], rare: [12, 16] },
];

/** "sure", "rare" (only beside a word about cards), or undefined for no card. */
export function cardIssuer(digits: string): "sure" | "rare" | undefined {
  let rare = false;
  for (const issuer of ISSUERS) {
    if (!issuer.prefix.test(digits)) continue;
    if (issuer.lengths.includes(digits.length)) return "sure";
    rare ||= issuer.rare?.includes(digits.length) ?? false;
  }
  return rare ? "rare" : undefined;
}

/** Codes of provinces, GB/T 2260; 91 since residence permits of 2018. */
const PROVINCES = new Set([
  11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46, 50, 51, 52, 53, 54, 61, 62, 63,
  64, 65, 71, 81, 82, 83, 91,
]);
const CN_WEIGHTS = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];

/** GB 11643-1999: province, date of birth, order, check character. */
export function isCnIdentity(id: string): boolean {
  if (!/^\d{17}[\dXx]$/.test(id) || !PROVINCES.has(Number(id.slice(0, 2)))) return false;
  if (!isDate(Number(id.slice(6, 10)), Number(id.slice(10, 12)), Number(id.slice(12, 14)))) return false;
  const sum = CN_WEIGHTS.reduce((total, weight, at) => total + weight * (id.charCodeAt(at) - 48), 0);
  return "10X98765432".charAt(sum % 11) === id.charAt(17).toUpperCase();
}

/** The fifteen digits issued before 1999: no check character, two digits of the year. */
export function isOldCnIdentity(id: string): boolean {
  if (!/^\d{15}$/.test(id) || !PROVINCES.has(Number(id.slice(0, 2)))) return false;
  return isDate(1900 + Number(id.slice(6, 8)), Number(id.slice(8, 10)), Number(id.slice(10, 12)));
}

function isDate(year: number, month: number, day: number): boolean {
  if (year < 1850 || year > 2100 || month < 1 || month > 12 || day < 1) return false;
  return day <= new Date(Date.UTC(year, month, 0)).getUTCDate();
}

/** Areas, groups and serials that the Social Security Administration assigns. */
export function isSsn(area: string, group: string, serial: string): boolean {
  return area !== "000" && area !== "666" && !area.startsWith("9") && group !== "00" && serial !== "0000";
}

/** Lengths of IBANs by country: SWIFT's IBAN registry, release 99. */
const IBAN_LENGTHS: Readonly<Record<string, number>> = Object.fromEntries(
  (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 " +
    "FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 " +
    "MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 " +
    "SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
  )
    .split(" ")
    .map((entry) => [entry.slice(0, 2), Number(entry.slice(2))]),
);

export function ibanLength(country: string): number | undefined {
  return IBAN_LENGTHS[country];
}

/** ISO 13616 by ISO/IEC 7064 MOD 97-10: one more ASCII letter or digit. What is left of all is 1. */
export function mod97(rest: number, unit: number): number {
  return unit < 58 ? (rest * 10 + unit - 48) % 97 : (rest * 100 + (unit & ~32) - 55) % 97;
}
