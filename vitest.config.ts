import { cloudflareTest, readD1Migrations } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

/** Secrets of the tests: made up, and the same in every room. */
const TEST_SECRETS = {
  ADMIN_TOKEN: "admin-token-of-the-tests",
  ANTHROPIC_API_KEY: "sk-ant-UPKEY-CANARY",
  KEY_TAG_SECRET: "tag-secret-of-the-tests-0123456789",
  MASTER_KEY: "1:bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMDEyMzQ1Njc=",
};

const CROWDS = [
  "test/e2e/ledger-crowds.test.ts",
  "test/e2e/answers-together.test.ts",
  "test/e2e/conversations-kills.test.ts",
];
/** A busy machine is slow, and nothing here measures time. */
const PATIENT = { testTimeout: 30_000, hookTimeout: 60_000 };

export default defineConfig({
  test: {
    // Two cores are what the smallest of the machines in use has.
    maxWorkers: 2,
    projects: [
      {
        // Pure logic: runs in Node, no Worker around it.
        test: { name: "pure", include: ["test/**/*.pure.test.ts"], ...PATIENT },
      },
      {
        // Rooms inside the Workers runtime.
        plugins: [
          cloudflareTest(async ({ inject }) => ({
            wrangler: { configPath: "./wrangler.toml" },
            miniflare: {
              bindings: {
                ...TEST_SECRETS,
                ALLOW_LOCAL_UPSTREAMS: "true",
                UPSTREAM_URL: `http://127.0.0.1:${inject("upstreamPort")}`,
                TEST_MIGRATIONS: await readD1Migrations("./migrations"),
              },
            },
          })),
        ],
        test: {
          name: "workers",
          include: ["test/**/*.worker.test.ts"],
          globalSetup: ["./test/support/upstream.ts"],
          setupFiles: ["./test/support/migrate.ts"],
          ...PATIENT,
        },
      },
      {
        // The real bundle, spoken to over HTTP by the clients people use. Much of its time is spent waiting.
        test: {
          name: "e2e",
          include: ["test/e2e/**/*.test.ts", "test/simulator/**/*.e2e.test.ts"],
          exclude: CROWDS,
          ...PATIENT,
          sequence: { groupOrder: 1 },
        },
      },
      {
        // The same, with hundreds of clients over several runtimes, which have the machine to themselves.
        test: { name: "crowds", include: CROWDS, ...PATIENT, maxWorkers: 1, sequence: { groupOrder: 2 } },
      },
    ],
  },
});
