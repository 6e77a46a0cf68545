-- What may go out and come back: of a key, and of all keys of a workspace (JSON; null: anything).
ALTER TABLE api_keys ADD COLUMN guardrails TEXT;
ALTER TABLE workspaces ADD COLUMN guardrails TEXT;
