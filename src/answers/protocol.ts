/**
 * What a Worker and the object of one answer say to each other. Fields are only ever added: for a while after a
 * deployment the two may be of different releases.
 */
import type { Outcome } from "../audit/record.ts";
import type { Verdict } from "./turns.ts";
import type { Upload } from "./upload.ts";

/** A call that wants an answer. */
export type Claim = {
  /** The call's own: its request id. */
  readonly token: string;
  /** Of everything that can change the answer. Calls of one object with another fingerprint want another answer. */
  readonly fingerprint: string;
  /** An answer that was complete longer ago than this, ms, is none for it. Left out: any that is kept will do. */
  readonly maxAgeMs?: number;
  /**
   * Another call's failure is none of this one's: should the run that it would join come to nothing soon, it asks once
   * more, the first of all that waited for it for the others too.
   */
  readonly apart?: boolean;
};

/** What is kept of which answers. */
export type Keep = {
  /** From the answer's end on, ms. */
  readonly ms: number;
  /** Refusals that are the client's own (400, 404, 413, 422, …) are kept too, not complete successes alone. */
  readonly clientErrors: boolean;
  /** Only a 200 whose Message ended for one of these reasons. Left out: whatever is complete. */
  readonly stopReasons?: readonly string[];
};

/** Travels beside the order of a run. */
export type RunOrder = {
  readonly claim: Claim;
  readonly keep: Keep;
  /** The body is an upload: no fingerprint knows it before it has passed. */
  readonly upload?: Upload | undefined;
};

/** How a run ended, for the records of those who read along. */
export type RunEnd = { readonly outcome: Outcome; readonly errorType: string | null };

/** The object's face. `fetch` takes an order (POST, with RUN_HEADER), or reads a run's answer (GET, with ATTACH_HEADER). */
export type AnswerObject = {
  fetch(url: string, init: RequestInit): Promise<Response>;
  /** What a call is to do. Waits while another one that has the turn is being admitted. */
  claim(claim: Claim): Promise<Verdict>;
  /** A call that has the turn, or waits for it, gives up. */
  release(token: string): Promise<void>;
  /** Resolves when a run is over. Null: it is not known any more. */
  ending(run: string): Promise<RunEnd | null>;
};

export const RUN_HEADER = "x-sluice-run";
export const ATTACH_HEADER = "x-sluice-attach";
/** Travels beside ATTACH_HEADER: the hash of an upload that must be the first one's. */
export const UPLOAD_HEADER = "x-sluice-upload";
