/** How the bodies of our own endpoints name workspaces, scopes and models. */
import * as z from "zod/mini";
import { matching, noneTwice, oneOf } from "../fields.ts";
import { SCOPES, type Scope } from "./scopes.ts";

export const WORKSPACE = /^[A-Za-z0-9_-]{1,64}$/;
const MODEL = /^[A-Za-z0-9._:@[\]/-]{1,127}\*?$/;
export const MAX_MODELS = 100;

export const modelPattern = matching(MODEL, "must be a model id, or a prefix ending in *");

/** What a key, a token or an upstream may be for. Null: every model. */
export const modelPatterns = z.nullable(
  z
    .array(modelPattern, "must be a list of model ids, or null")
    .check(
      z.minLength(1, "must name at least one model"),
      z.maxLength(MAX_MODELS, `must not name more than ${MAX_MODELS} models`),
      noneTwice,
    ),
);

/** A list of some of these scopes. */
export const scopesOf = (scopes: readonly Scope[]) =>
  z.array(oneOf(scopes), "must be a list of scopes").check(z.minLength(1, "must name at least one scope"), noneTwice);

export const scopeList = scopesOf(SCOPES);
