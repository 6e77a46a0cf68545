/** Files, kept and used by the real SDKs, and what only HTTP shows. */
import Anthropic, { toFile } from "@anthropic-ai/sdk";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KEY, type Running, startSimulator } from "./running.ts";
import { clientOf, SDKS } from "./sdks.ts";
import { type Json, MODEL } from "./support.ts";

let simulator: Running;
beforeAll(async () => {
  simulator = await startSimulator();
});
afterAll(() => simulator?.stop());

const BYTES = new Uint8Array([0, 255, 13, 10, 45, 45, 0xc3, 0x28]);
const DOWNLOADABLE = { headers: { "anthropic-sim-fault": "downloadable" } };
const png = (name = "a picture.png"): Promise<File> => toFile(BYTES, name, { type: "image/png" });

describe.each(SDKS)("SDK %s", (version, sdk) => {
  // Each test has an account of its own, so that lists hold what it has made.
  let number = 0;
  const make = (options: Json = {}): Anthropic =>
    clientOf(sdk, simulator, { apiKey: `sk-ant-files-${version}-${number++}`, ...options });
  // Before 1.0 files were beta, with the same calls.
  const filesOf = (client: Anthropic): Anthropic.Files => client.files ?? (client.beta.files as never);

  it("uploads, looks, downloads what can be downloaded, and deletes", async () => {
    const files = filesOf(make());
    const file = await files.upload({ file: await png(), expires_in_seconds: 3600 }, DOWNLOADABLE);
    expect(file).toMatchObject({
      id: expect.stringMatching(/^file_/),
      type: "file",
      filename: "a picture.png",
      mime_type: "image/png",
      size_bytes: BYTES.length,
      downloadable: true,
    });
    expect(Date.parse(String(file.expires_at)) - Date.parse(file.created_at)).toBe(3_600_000);
    expect(await files.retrieveMetadata(file.id)).toMatchObject({ id: file.id, filename: "a picture.png" });
    const content = await files.download(file.id);
    expect(content.headers.get("content-type")).toBe("image/png");
    expect(new Uint8Array(await content.arrayBuffer())).toEqual(BYTES);
    expect(await files.delete(file.id)).toMatchObject({ id: file.id, type: "file_deleted" });
    await expect(files.retrieveMetadata(file.id)).rejects.toBeInstanceOf(sdk.NotFoundError);
  });

  it("does not give an upload back", async () => {
    const files = filesOf(make());
    const { id } = await files.upload({ file: await png() });
    const error = await files.download(id).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(sdk.BadRequestError);
    expect(error).toMatchObject({ error: { error: { details: { error_code: "file_not_downloadable" } } } });
    if (sdk === Anthropic) expect(error).toBeInstanceOf(Anthropic.Files.FileNotDownloadableError);
  });

  it("lists files through all pages, and some by their ids", async () => {
    const files = filesOf(make());
    const ids: string[] = [];
    for (let i = 0; i < 7; i++) ids.unshift((await files.upload({ file: await png(`${i}.png`) })).id);
    const listed: string[] = [];
    for await (const file of files.list({ limit: 3 })) listed.push(file.id);
    expect(listed).toEqual(ids);
    const some: string[] = [];
    for await (const file of files.list({ ids: [ids[4] ?? "", ids[1] ?? "", "file_none"] })) some.push(file.id);
    expect(some).toEqual([ids[1], ids[4]]);
  });

  it("uses a file in a message, of its own organization only", async () => {
    const [own, same, other] = ["sk-ant-org-one-1", "sk-ant-org-one-2", "sk-ant-org-two-1"].map((apiKey) =>
      make({ apiKey }),
    ) as [Anthropic, Anthropic, Anthropic];
    const { id } = await filesOf(own).upload({ file: await png() });
    const params = {
      model: MODEL,
      max_tokens: 100,
      messages: [
        {
          role: "user",
          content: [
            { type: "image", source: { type: "file", file_id: id } },
            { type: "text", text: "say: seen" },
          ],
        },
      ],
    } as never;
    for (const client of [own, same]) {
      expect(await client.messages.create(params)).toMatchObject({ content: [{ text: "seen" }] });
    }
    for (const call of [
      () => other.messages.create(params),
      () => other.beta.messages.countTokens(params),
      () => filesOf(other).retrieveMetadata(id),
      () => filesOf(other).delete(id),
      () => filesOf(other).download(id),
    ]) {
      const error = await call().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(sdk.NotFoundError);
      expect((error as Error).message).toContain(`File not found: ${id}`);
    }
  });
});

const send = (path: string, init: RequestInit & { headers?: Record<string, string> } = {}): Promise<Response> =>
  fetch(`${simulator.url}${path}`, {
    ...init,
    headers: { "x-api-key": KEY, "anthropic-version": "2026-10-21", ...init.headers },
  });
const form = (fields: Record<string, string | File>): FormData => {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  return data;
};

it.each([
  ["no form", "{}", "The request body must be multipart/form-data."],
  ["no file", form({ other: "x" }), "file: Field required"],
  [
    "a life too short",
    form({ file: new File(["x"], "x"), expires_in_seconds: "5" }),
    "expires_in_seconds: must be from",
  ],
])("refuses an upload with %s", async (_, body, wording) => {
  const response = await send("/v1/files", { method: "POST", body });
  expect([response.status, await response.text()]).toEqual([400, expect.stringContaining(wording)]);
});

it("refuses a broken form", async () => {
  const headers = { "content-type": "multipart/form-data; boundary=b" };
  const response = await send("/v1/files", { method: "POST", body: "--b\r\nnothing", headers });
  expect([response.status, await response.text()]).toEqual([400, expect.stringContaining("is not valid multipart")]);
});

it("takes a file of 32 MB and refuses one byte more", async () => {
  const limit = 32 * 1024 * 1024;
  const upload = (size: number): Promise<Response> =>
    send("/v1/files", { method: "POST", body: form({ file: new File([new Uint8Array(size)], "big.bin") }) });
  const taken = await upload(limit);
  const { id } = (await taken.json()) as { id: string };
  expect(taken.status).toBe(200);
  expect((await upload(limit + 1)).status).toBe(413);
  expect((await send(`/v1/files/${id}`, { method: "DELETE" })).status).toBe(200);
});

it.each([
  ["PUT", "/v1/files", 405],
  ["POST", "/v1/files/file_1", 405],
  ["DELETE", "/v1/files/file_1/content", 405],
  ["GET", "/v1/files/file_1/other", 404],
  ["GET", "/v1/files/file_1", 404],
  ["GET", "/v1/files?beta=true", 200],
])("%s %s is %i", async (method, path, status) => {
  expect((await send(path, { method })).status).toBe(status);
});

it("is in the journal, and its content can be cut", async () => {
  const body = form({ file: new File(["some text"], "a.txt", { type: "text/plain" }) });
  const uploaded = await send("/v1/files", { method: "POST", body, headers: DOWNLOADABLE.headers });
  const { id } = (await uploaded.json()) as { id: string };
  expect((await simulator.journal())[0]).toMatchObject({ method: "POST", target: "/v1/files", status: 200 });
  expect(await (await send(`/v1/files/${id}/content`)).text()).toBe("some text");
  const cut = await send(`/v1/files/${id}/content`, { headers: { "anthropic-sim-fault": "cut=4" } });
  await expect(cut.text()).rejects.toThrow();
  expect((await simulator.journal())[0]).toMatchObject({ target: `/v1/files/${id}/content`, outcome: "cut" });
});
