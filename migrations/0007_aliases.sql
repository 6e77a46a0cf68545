-- Names that a key has for models of its own choice (JSON object; null: none).
ALTER TABLE api_keys ADD COLUMN aliases TEXT;
