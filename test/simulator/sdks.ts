/** The two generations of Anthropic's SDK that people use, each the way it speaks by itself. */
import Anthropic from "@anthropic-ai/sdk";
import Anthropic0 from "anthropic-sdk-0";
import { KEY, type Running } from "./running.ts";
import type { Json } from "./support.ts";

/** One SDK's types stand for both: the calls of the tests are the same in each. */
export const SDKS: readonly (readonly [version: string, sdk: typeof Anthropic])[] = [
  ["1.11.0", Anthropic],
  ["0.137.0", Anthropic0 as unknown as typeof Anthropic],
];

/** A client that does not retry. */
export function clientOf(sdk: typeof Anthropic, { url }: Running, options: Json = {}): Anthropic {
  return new sdk({ baseURL: url, apiKey: KEY, maxRetries: 0, ...options });
}
