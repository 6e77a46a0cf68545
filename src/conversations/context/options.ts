/** What a message asks for: the conversation's own fields with the message's options laid over them, both as input.ts lets them in. Pure. */
import type { Options } from "../../../clients/typescript/protocol.ts";
import type { Spec } from "../protocol.ts";

type Asked = {
  /** Fields of a Messages body, `messages` and `system` left out. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly betas: readonly string[];
};

/** The conversation as a message with these options sees it: for whoever goes by its model and its sizes. */
export function withOptions(spec: Spec, options: Options): Spec {
  const { model, max_tokens: maxTokens } = options;
  return {
    ...spec,
    options: { ...spec.options, ...options },
    ...(typeof model === "string" && { model }),
    ...(typeof maxTokens === "number" && { maxTokens }),
  };
}

/** `null` takes a field away. What fields say is upstream's to judge. */
export function askedFor(spec: Spec, options: Options): Asked {
  const { model, maxTokens, tools, options: laid } = withOptions(spec, options);
  const fields: Record<string, unknown> = { model, max_tokens: maxTokens, tools };
  for (const [name, value] of Object.entries(laid)) {
    if (value === null) delete fields[name];
    else fields[name] = value;
  }
  const { betas, ...rest } = fields;
  if (!Array.isArray(rest.tools) || rest.tools.length === 0) {
    // A choice goes with tools only; neither an empty list nor a choice without one is taken.
    delete rest.tools;
    delete rest.tool_choice;
  }
  return { fields: rest, betas: Array.isArray(betas) ? betas.map(String) : [] };
}
