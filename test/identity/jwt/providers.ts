/**
 * What providers issue: headers and claims as their documentation shows them, with names, ids and times of our own.
 * Cloudflare Access: developers.cloudflare.com/cloudflare-one/access-controls/applications/http-apps/authorization-cookie/application-token
 * (users and service tokens). GitHub Actions: docs.github.com/en/actions/reference/security/oidc. The generic provider's are
 * those of Keycloak's access tokens (www.keycloak.org/docs/latest/server_admin, its built-in protocol mappers), and Auth0's
 * rule that claims of one's own are named like URLs (auth0.com/docs/secure/tokens/json-web-tokens/create-custom-claims).
 */
import type { IssuerRecord } from "../../../src/identity/jwt/issuer.ts";
import { SECONDS } from "./made.ts";

export const ACCESS = {
  issuer: "https://example.cloudflareaccess.com",
  jwks: "https://example.cloudflareaccess.com/cdn-cgi/access/certs",
  audience: "32eafc7626e737849670a2b1b7b1d9a5d0a4f1a3c9ee2ab1d2ea4d6a5e4d7c11",
  header: { kid: "9338f3eadad7c1c4a7b5f8e0d1c2b3a49d8e7f60", typ: "JWT" },
  user: {
    aud: ["32eafc7626e737849670a2b1b7b1d9a5d0a4f1a3c9ee2ab1d2ea4d6a5e4d7c11"],
    email: "ada@example.com",
    exp: SECONDS + 86_300,
    iat: SECONDS - 100,
    nbf: SECONDS - 100,
    iss: "https://example.cloudflareaccess.com",
    type: "app",
    identity_nonce: "6ei69kawdKzMIAPF",
    sub: "7335d417-61da-459d-899c-0a01c76a2f94",
    country: "US",
    custom: { groups: ["engineering", "on-call"] },
  },
  service: {
    type: "app",
    aud: "32eafc7626e737849670a2b1b7b1d9a5d0a4f1a3c9ee2ab1d2ea4d6a5e4d7c11",
    exp: SECONDS + 86_300,
    iss: "https://example.cloudflareaccess.com",
    common_name: "e367826f93b8d71185e03fe518aff3b4.access",
    iat: SECONDS - 100,
    sub: "",
  },
};

export const GITHUB = {
  issuer: "https://token.actions.githubusercontent.com",
  jwks: "https://token.actions.githubusercontent.com/.well-known/jwks",
  audience: "https://sluice.example",
  header: { typ: "JWT", x5t: "eBZ_cn3sXYAd0ch4THBKHIgOwOE", kid: "78167F727DEC5D801DD1C8784C704A1C880EC0E1" },
  claims: {
    jti: "d5f1c9a2-6b1e-4f64-9e0c-0a6a5a1f4a7b",
    sub: "repo:octo-org/octo-repo:ref:refs/heads/main",
    aud: "https://sluice.example",
    ref: "refs/heads/main",
    sha: "0b3c2a5e9f1d4c6b8a7e5d3f1c2b4a6e8d0f2a1c",
    repository: "octo-org/octo-repo",
    repository_owner: "octo-org",
    repository_owner_id: "65",
    run_id: "9876543210",
    run_number: "10",
    run_attempt: "2",
    repository_visibility: "private",
    repository_id: "74",
    actor_id: "12",
    actor: "octocat",
    workflow: "release",
    head_ref: "",
    base_ref: "",
    event_name: "push",
    ref_protected: "true",
    ref_type: "branch",
    workflow_ref: "octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main",
    workflow_sha: "0b3c2a5e9f1d4c6b8a7e5d3f1c2b4a6e8d0f2a1c",
    job_workflow_ref: "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main",
    job_workflow_sha: "1c2b4a6e8d0f2a1c0b3c2a5e9f1d4c6b8a7e5d3f",
    runner_environment: "github-hosted",
    iss: "https://token.actions.githubusercontent.com",
    nbf: SECONDS - 600,
    exp: SECONDS + 300,
    iat: SECONDS,
  },
};

export const OIDC = {
  issuer: "https://id.example.com/realms/staff",
  jwks: "https://id.example.com/realms/staff/protocol/openid-connect/certs",
  audience: "sluice",
  header: { typ: "JWT", kid: "FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE" },
  claims: {
    exp: SECONDS + 300,
    iat: SECONDS,
    auth_time: SECONDS - 30,
    jti: "onrtac:3f1c2b4a-6e8d-4f2a-9c0b-3c2a5e9f1d4c",
    iss: "https://id.example.com/realms/staff",
    aud: ["sluice", "account"],
    sub: "b3f1c2b4-a6e8-4d0f-a1c0-b3c2a5e9f1d4",
    typ: "Bearer",
    azp: "portal",
    sid: "c2b4a6e8-d0f2-4a1c-8b3c-2a5e9f1d4c6b",
    acr: "1",
    "allowed-origins": ["https://portal.example.com"],
    realm_access: { roles: ["default-roles-staff", "offline_access", "ai-admin"] },
    resource_access: { account: { roles: ["manage-account", "view-profile"] } },
    scope: "openid email profile",
    email_verified: true,
    level: 3,
    preferred_username: "ada",
    groups: ["/staff", "/staff/engineering"],
    email: "ada@example.com",
    "https://example.com/roles": ["writer"],
  },
};

export const KEY = "key_01k9s3v0q0a1b2c3d4e5f6g7h8";
export const OTHER_KEY = "key_01k9s3v0q0zzzzzzzzzzzzzzzz";

export function issuerRecord(changes: Partial<IssuerRecord> = {}): IssuerRecord {
  return {
    id: "iss_01k9s3v0q0a1b2c3d4e5f6g7h8",
    name: "staff",
    issuer: OIDC.issuer,
    audiences: [OIDC.audience],
    jwks_url: OIDC.jwks,
    sealed_secret: null,
    typ: null,
    max_lifetime_seconds: 86_400,
    mappings: [{ when: {}, key: KEY }],
    blocked_subjects: [],
    state: "active",
    created_at: 1,
    updated_at: 1,
    version: 1,
    ...changes,
  };
}
