import { answer, type Operation, type Tag } from "../operation.ts";
import { anything, flag, just, list, object, orNull, ref, text, whole } from "../schema.ts";

const OPUS = {
  id: "opus",
  object: "model",
  type: "model",
  display_name: "Claude Opus 5.5 (opus)",
  created: 1790035200,
  created_at: "2026-09-22T00:00:00Z",
  owned_by: "anthropic",
  max_input_tokens: 1000000,
  max_tokens: 128000,
  alias_of: "claude-opus-5-5",
};

const one = (id: string, route: string, summary: string): Operation => ({
  id,
  route,
  summary,
  answers: { 200: answer("The model.", ref("Model"), OPUS) },
  errors: [502, 504],
});

export const models: Tag = {
  name: "Models",
  description: "The models that a key may use, for both dialects, and their other names.",
  docs: "docs/api.md#models-and-their-names",
  operations: [
    {
      id: "listModels",
      route: "GET /v1/models",
      summary: "The models that this key may use, and their other names",
      description: "Everything comes at once, unless a page is asked for.",
      query: {
        limit: { schema: { type: "integer", minimum: 1, maximum: 1000 }, example: 10 },
        after_id: { schema: text, description: "`last_id` of the page before." },
        before_id: { schema: text, description: "`first_id` of the page behind." },
      },
      answers: { 200: answer("All models, or a page of them.", ref("ModelList")) },
    },
    one("readModel", "GET /v1/models/:id", "A model by any of its names"),
    one("readModelOfVendor", "GET /v1/models/:vendor/:id", "The same, under a name such as `anthropic/opus`"),
  ],
  schemas: {
    Model: object(
      { id: text, object: just("model"), type: just("model"), created: whole, owned_by: text },
      {
        display_name: text,
        created_at: text,
        max_input_tokens: orNull(whole),
        max_tokens: orNull(whole),
        alias_of: { ...text, description: "The model that this name leads to." },
        capabilities: anything,
      },
    ),
    ModelList: object({
      object: just("list"),
      data: list(ref("Model")),
      has_more: flag,
      first_id: orNull(text),
      last_id: orNull(text),
    }),
  },
};
