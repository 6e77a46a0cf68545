// biome-ignore-all lint: the acceptance cases come with this reader; it stays as it is.
// biome-ignore-all format: the same.
// Reference matcher for the compat cases. No dependencies. See README.md for the language.
const isObj = (v) => v !== null && typeof v === 'object' && !Array.isArray(v);
const OPS = ['$absent', '$one_of', '$type', '$regex', '$capture', '$ref', '$json', '$contains', '$not_contains',
  '$len', '$each', '$has', '$all', '$text', '$system_text', '$not', '$open', '$min', '$max', '$min_len'];
const isOp = (m) => isObj(m) && Object.keys(m).some((k) => OPS.includes(k));
// Keys an implementation may add on its own without failing a (closed) Anthropic-request match.
export const IGNORABLE = new Set(['cache_control', 'metadata', 'stream', 'service_tier', 'inference_geo', 'diagnostics',
  'max_tokens', 'betas', 'anthropic_beta', 'eager_input_streaming', 'strict', 'citations', 'display', 'block_binding',
  'user_profile_id', 'speed', 'caller', 'context_management']);

const textOf = (c) => c == null ? '' : typeof c === 'string' ? c
  : c.filter((b) => b.type === 'text').map((b) => b.text).join('');
const blocks = (c) => typeof c === 'string' ? (c === '' ? [] : [{ type: 'text', text: c }]) : c;
const clean = (o) => {
  if (Array.isArray(o)) return o.map(clean);
  if (!isObj(o)) return o;
  const r = {};
  for (const [k, v] of Object.entries(o)) if (v !== null && v !== undefined) r[k] = clean(v);
  return r;
};
/** Canonical form of an Anthropic Messages request body: applied to the actual body AND to the expected one. */
export function canonRequest(body) {
  const b = clean(body);
  if (Array.isArray(b.messages)) {
    const out = [];
    for (const m of b.messages) {
      if (isOp(m)) { out.push(m); continue; }
      let c = isOp(m.content) || m.content === '*' ? m.content : blocks(m.content ?? []);
      if (Array.isArray(c)) c = c.map((x) => {
        if (isOp(x) || !isObj(x)) return x;
        const y = { ...x };
        if (y.type === 'tool_result') {
          if (y.is_error === false) delete y.is_error;
          if (typeof y.content === 'string' && y.content !== '*') y.content = blocks(y.content);
        }
        return y;
      });
      const last = out[out.length - 1];
      if (last && !isOp(last) && last.role === m.role && m.role !== 'system' && Array.isArray(last.content) && Array.isArray(c)) last.content = [...last.content, ...c];
      else out.push({ ...m, content: c });
    }
    b.messages = out;
  }
  if (typeof b.system === 'string' && b.system !== '*') b.system = blocks(b.system);
  if (Array.isArray(b.system) && b.system.length === 0) delete b.system;
  if (Array.isArray(b.tools) && b.tools.length === 0) delete b.tools;
  if (Array.isArray(b.stop_sequences) && b.stop_sequences.length === 0) delete b.stop_sequences;
  if (Array.isArray(b.tools)) b.tools = b.tools.map((t) => { const y = { ...t }; if (y.type === 'custom') delete y.type; if (y.description === '') delete y.description; return y; });
  if (isObj(b.tool_choice) && !isOp(b.tool_choice)) {
    if (b.tool_choice.disable_parallel_tool_use === false) { b.tool_choice = { ...b.tool_choice }; delete b.tool_choice.disable_parallel_tool_use; }
    if (b.tool_choice.type === 'auto' && Object.keys(b.tool_choice).length === 1) delete b.tool_choice;
  }
  if (b.stream === false) delete b.stream;
  if (isObj(b.output_config) && Object.keys(b.output_config).length === 0) delete b.output_config;
  return b;
}
export function match(m, a, ctx = { vars: {}, closed: false }, path = '$') {
  const err = (s) => [`${path}: ${s}`];
  if (m === '*') return a === undefined || a === null ? err('expected a value') : [];
  if (isOp(m)) {
    const e = [];
    if ('$absent' in m) return a === undefined || a === null ? [] : err(`expected absent, got ${JSON.stringify(a)?.slice(0, 120)}`);
    if ('$one_of' in m) { const tries = m.$one_of.map((x) => match(x, a, ctx, path)); return tries.some((t) => !t.length) ? [] : err(`none of ${m.$one_of.length} alternatives: ${tries.map((t) => t[0]).join(' | ')}`); }
    if ('$not' in m) return match(m.$not, a, ctx, path).length ? [] : err('matched a forbidden pattern ' + JSON.stringify(m.$not));
    if ('$all' in m) return m.$all.flatMap((x) => match(x, a, ctx, path));
    if ('$open' in m) return match(m.$open, a, { ...ctx, closed: false }, path);
    if ('$type' in m) {
      const ts = [].concat(m.$type); const t = a === null || a === undefined ? 'null' : Array.isArray(a) ? 'array' : Number.isInteger(a) ? 'integer' : typeof a;
      if (!ts.includes(t) && !(t === 'integer' && ts.includes('number'))) e.push(...err(`type ${t}, expected ${ts}`));
    }
    if ('$min' in m && !(a >= m.$min)) e.push(...err(`${a} < ${m.$min}`));
    if ('$max' in m && !(a <= m.$max)) e.push(...err(`${a} > ${m.$max}`));
    if ('$min_len' in m && !((a?.length ?? -1) >= m.$min_len)) e.push(...err(`length ${a?.length} < ${m.$min_len}`));
    if ('$len' in m && a?.length !== m.$len) e.push(...err(`length ${a?.length}, expected ${m.$len}`));
    if ('$regex' in m && !(typeof a === 'string' && new RegExp(m.$regex, m.$flags || '').test(a))) e.push(...err(`${JSON.stringify(a)} !~ /${m.$regex}/`));
    if ('$contains' in m && !(typeof a === 'string' && a.includes(m.$contains))) e.push(...err(`missing ${JSON.stringify(m.$contains)}`));
    if ('$not_contains' in m && JSON.stringify(a ?? '').includes(m.$not_contains)) e.push(...err(`must not contain ${m.$not_contains}`));
    if ('$json' in m) { try { e.push(...match(m.$json, JSON.parse(a), { ...ctx, closed: true }, path + '<json>')); } catch { e.push(...err('not JSON: ' + a)); } }
    if ('$text' in m && textOf(a) !== m.$text) e.push(...err(`text ${JSON.stringify(textOf(a))} != ${JSON.stringify(m.$text)}`));
    if ('$system_text' in m) { const n = (s) => s.replace(/\s+/g, ' ').trim(); const got = n(typeof a === 'string' ? a : (a ?? []).map((b) => b.text).join('\n')); const want = n(m.$system_text.join('\n')); if (got !== want) e.push(...err(`system ${JSON.stringify(got)} != ${JSON.stringify(want)}`)); }
    if ('$each' in m) { if (!Array.isArray(a)) e.push(...err('not an array')); else a.forEach((x, i) => e.push(...match(m.$each, x, ctx, `${path}[${i}]`))); }
    if ('$has' in m) for (const x of m.$has) if (!(Array.isArray(a) && a.some((y) => !match(x, y, ctx, path).length))) e.push(...err('no element matches ' + JSON.stringify(x)));
    if ('$capture' in m) { if (a === undefined || a === null) e.push(...err('nothing to capture')); else ctx.vars[m.$capture] = a; }
    if ('$ref' in m && a !== ctx.vars[m.$ref]) e.push(...err(`${JSON.stringify(a)} != captured ${m.$ref}=${JSON.stringify(ctx.vars[m.$ref])}`));
    return e;
  }
  if (Array.isArray(m)) {
    if (!Array.isArray(a)) return err('expected array, got ' + JSON.stringify(a)?.slice(0, 80));
    if (a.length !== m.length) return err(`array length ${a.length}, expected ${m.length}: ${JSON.stringify(a).slice(0, 200)}`);
    return m.flatMap((x, i) => match(x, a[i], ctx, `${path}[${i}]`));
  }
  if (isObj(m)) {
    if (!isObj(a)) return err('expected object, got ' + JSON.stringify(a)?.slice(0, 80));
    const e = Object.entries(m).flatMap(([k, v]) => match(v, a[k], ctx, `${path}.${k}`));
    if (ctx.closed) for (const k of Object.keys(a)) if (!(k in m) && !IGNORABLE.has(k) && a[k] !== null && a[k] !== undefined) e.push(`${path}.${k}: unexpected key = ${JSON.stringify(a[k])?.slice(0, 100)}`);
    return e;
  }
  // "content": "x" equals one text block "x" wherever it is nested
  if (typeof m === 'string' && /\.content$/.test(path) && Array.isArray(a) && a.length === 1 && a[0]?.type === 'text') return a[0].text === m ? [] : err(`${JSON.stringify(a[0].text)} != ${JSON.stringify(m)}`);
  return m === a || (m === null && a === undefined) ? [] : err(`${JSON.stringify(a)} != ${JSON.stringify(m)}`);
}
export const matchRequest = (expected, body, vars = {}) => match(canonRequest(expected), canonRequest(body), { vars, closed: true });
export const matchResponse = (expected, json, vars = {}) => match(expected, json, { vars, closed: false });

/** SSE text -> [{event, data}] (data is the raw string). */
export function parseSSE(text) {
  return text.split(/\r?\n\r?\n/).map((f) => { let event = null, data = []; for (const l of f.split(/\r?\n/)) { if (l.startsWith('event:')) event = l.slice(6).trim(); else if (l.startsWith('data:')) data.push(l.slice(5).replace(/^ /, '')); } return { event, data: data.join('\n') }; }).filter((x) => x.data !== '');
}
/** Accumulate a chat.completion.chunk stream and check the invariants S1..S12 of README.md. */
export function readChatStream(text) {
  const e = [], order = [], tools = [], first = {};
  const msg = { role: null, content: null, reasoning_content: null, refusal: null, tool_calls: [] };
  let finish = null, usage, done = false, error = null, contentDeltas = 0, afterFinish = false, usageChunk = false, nullUsage = 0, plain = 0;
  const seen = (k) => { if (!order.includes(k)) order.push(k); };
  for (const ev of parseSSE(text)) {
    if (done) { e.push('S1: data after [DONE]'); break; }
    if (ev.data.startsWith('[DONE]')) { done = true; continue; }
    let c; try { c = JSON.parse(ev.data); } catch { e.push('S2: not JSON: ' + ev.data.slice(0, 80)); continue; }
    if (c.error) { error = c.error; continue; }
    if (c.object !== 'chat.completion.chunk') e.push('S3: object=' + c.object);
    for (const k of ['id', 'model', 'created']) { if (c[k] === undefined) e.push(`S4: ${k} missing`); else if (first[k] === undefined) first[k] = c[k]; else if (first[k] !== c[k]) e.push(`S4: ${k} changed`); }
    if (!Array.isArray(c.choices)) { e.push('S5: choices not an array'); continue; }
    if (c.usage) { if (usageChunk) e.push('S6: more than one usage chunk'); usageChunk = true; usage = c.usage; if (c.choices.length !== 0) e.push('S6: usage must ride on a chunk with choices: []'); if (!finish && !error) e.push('S6: usage before finish_reason'); }
    else { plain++; if ('usage' in c && c.usage === null) nullUsage++; if (c.choices.length === 0) e.push('S5: empty choices without usage'); }
    for (const ch of c.choices) {
      if (ch.index !== 0) e.push('S5: choice index ' + ch.index);
      const d = ch.delta ?? {};
      if (msg.role === null) { if (d.role !== 'assistant') e.push('S7: first delta lacks role: "assistant"'); msg.role = d.role ?? 'assistant'; }
      const has = { content: !!d.content, reasoning: !!(d.reasoning_content ?? d.reasoning), tools: !!(d.tool_calls?.length) };
      if ([has.content, has.reasoning, has.tools].filter(Boolean).length > 1) e.push('S8: one delta mixes content/reasoning/tool_calls');
      if (finish && (has.content || has.reasoning || has.tools)) e.push('S9: delta after finish_reason');
      if (typeof d.content === 'string') { if (d.content) { msg.content = (msg.content ?? '') + d.content; contentDeltas++; seen('content'); } else msg.content = msg.content ?? ''; }
      const r = d.reasoning_content ?? d.reasoning; if (r) { msg.reasoning_content = (msg.reasoning_content ?? '') + r; seen('reasoning'); }
      if (d.refusal) { msg.refusal = (msg.refusal ?? '') + d.refusal; seen('refusal'); }
      for (const t of d.tool_calls ?? []) {
        if (!Number.isInteger(t.index) || t.index < 0) { e.push('S10: tool index ' + t.index); continue; }
        if (!tools[t.index]) {
          if (t.index !== tools.length) e.push(`S10: tool index ${t.index} opened out of order`);
          if (!t.id || !(t.function?.name || t.custom?.name)) e.push('S10: first tool delta lacks id/name');
          if (t.type !== 'function' && t.type !== 'custom') e.push('S10: first tool delta lacks type');
          tools[t.index] = t.type === 'custom' ? { id: t.id, type: 'custom', custom: { name: t.custom?.name, input: t.custom?.input ?? '' } } : { id: t.id, type: 'function', function: { name: t.function?.name, arguments: t.function?.arguments ?? '' } };
          seen(`tool:${t.index}`);
        } else {
          if (t.id && t.id !== tools[t.index].id) e.push('S10: id changed inside a tool call');
          if (t.function?.name && t.function.name !== tools[t.index].function?.name) e.push('S10: name repeated with another value');
          if (tools[t.index].function) tools[t.index].function.arguments += t.function?.arguments ?? ''; else tools[t.index].custom.input += t.custom?.input ?? '';
        }
      }
      if (ch.finish_reason) { if (finish) e.push('S9: second finish_reason'); finish = ch.finish_reason; }
    }
  }
  if (!error) { if (!finish) e.push('S9: no finish_reason'); if (!done) e.push('S1: no [DONE]'); }
  else if (finish) e.push('S11: finish_reason sent although the stream failed');
  if (usageChunk && nullUsage !== plain && nullUsage !== 0) e.push('S12: usage:null on some chunks only');
  for (const t of tools) if (t?.function && finish === 'tool_calls') { try { const v = JSON.parse(t.function.arguments); if (!isObj(v)) throw 0; } catch { e.push('S10: arguments are not a JSON object: ' + t.function.arguments); } }
  msg.tool_calls = tools;
  if (!tools.length) delete msg.tool_calls;
  return { errors: e, message: msg, finish_reason: finish, usage, order, contentDeltas, done, error, first };
}
export function checkChatStream(exp, text, vars = {}) {
  const r = readChatStream(text); const e = exp.skip_invariants ? [] : [...r.errors]; const ctx = { vars, closed: false };
  if (exp.message) e.push(...match(exp.message, r.message, ctx, 'message'));
  if ('finish_reason' in exp) e.push(...match(exp.finish_reason, r.finish_reason, ctx, 'finish_reason'));
  if ('usage' in exp) e.push(...(exp.usage === null ? (r.usage ? ['usage sent but not asked for'] : []) : match(exp.usage, r.usage, ctx, 'usage')));
  if (exp.order) e.push(...match(exp.order, r.order, ctx, 'order'));
  if (exp.min_content_deltas && r.contentDeltas < exp.min_content_deltas) e.push(`buffered: ${r.contentDeltas} content deltas`);
  if (exp.error) e.push(...match(exp.error, r.error, ctx, 'error'));
  return e;
}
export function checkResponsesStream(exp, text, vars = {}) {
  const e = [], evs = parseSSE(text).filter((x) => !x.data.startsWith('[DONE]')).map((x) => ({ ...JSON.parse(x.data), __event: x.event }));
  const opt = new Set([...(exp.optional ?? []), 'response.queued', 'response.output_text.annotation.added', 'keepalive']);
  let seq = -1; const types = [];
  for (const v of evs) {
    if (v.__event && v.__event !== v.type) e.push(`R1: event line ${v.__event} != type ${v.type}`);
    if (!Number.isInteger(v.sequence_number) || v.sequence_number <= seq) e.push(`R2: sequence_number ${v.sequence_number} after ${seq} (${v.type})`); else seq = v.sequence_number;
    if (!opt.has(v.type) && types[types.length - 1] !== v.type) types.push(v.type);
  }
  if (exp.types) e.push(...match(exp.types.filter((t) => !opt.has(t)), types.filter((t) => !opt.has(t)), { vars }, 'types'));
  const byItem = {};
  for (const v of evs) if (v.type === 'response.output_item.added') byItem[v.output_index] = v.item.id; else if ('item_id' in v && byItem[v.output_index] !== v.item_id) e.push(`R3: ${v.type} item_id ${v.item_id} != ${byItem[v.output_index]}`);
  const idx = evs.filter((v) => v.type === 'response.output_item.added').map((v) => v.output_index);
  if (idx.some((x, i) => x !== i)) e.push('R4: output_index not 0..n-1: ' + idx);
  const last = evs[evs.length - 1];
  if (exp.final) e.push(...match(exp.final, last?.response ?? last, { vars }, 'final'));
  if (exp.final_type && last?.type !== exp.final_type) e.push(`final event ${last?.type}, expected ${exp.final_type}`);
  if (last?.response?.id && evs[0]?.response?.id !== last.response.id) e.push('R5: response id changed');
  const td = evs.filter((v) => v.type === 'response.output_text.delta').map((v) => v.delta).join('');
  const tt = (last?.response?.output ?? []).filter((o) => o.type === 'message').flatMap((o) => o.content).filter((c) => c.type === 'output_text').map((c) => c.text).join('');
  if (/completed|incomplete/.test(last?.type ?? '') && td !== tt) e.push(`R6: text deltas ${JSON.stringify(td)} != final text ${JSON.stringify(tt)}`);
  return e;
}
