/** vCenter's schema. `provider_id` and `key_id` are names of keys; there is no column that could hold a key. */
import type { Migrations } from './sqlite-database.js'

export const vcenterMigrations: Migrations = [
  `
  CREATE TABLE key_provider (
    id TEXT PRIMARY KEY, servers TEXT NOT NULL, ca_certificate TEXT NOT NULL, certificate TEXT NOT NULL,
    private_key_file TEXT NOT NULL, added_at TEXT NOT NULL
  ) STRICT;

  -- entity '' is the whole vCenter.
  CREATE TABLE key_provider_default (
    entity TEXT PRIMARY KEY, provider_id TEXT NOT NULL REFERENCES key_provider (id) ON DELETE CASCADE
  ) STRICT;

  CREATE TABLE cluster (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL) STRICT;

  CREATE TABLE host (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, cluster_id TEXT NOT NULL REFERENCES cluster (id),
    boot_id TEXT NOT NULL, datastores TEXT NOT NULL, added_at TEXT NOT NULL
  ) STRICT;

  CREATE TABLE storage_policy (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, encryption INTEGER NOT NULL, bundled INTEGER NOT NULL
  ) STRICT;

  CREATE TABLE vm (
    id TEXT PRIMARY KEY, revision INTEGER NOT NULL, name TEXT NOT NULL UNIQUE,
    cluster_id TEXT NOT NULL REFERENCES cluster (id), host_id TEXT REFERENCES host (id) ON DELETE SET NULL, datastore TEXT NOT NULL, vmx TEXT NOT NULL,
    home_policy_id TEXT NOT NULL REFERENCES storage_policy (id), provider_id TEXT, key_id TEXT,
    crypto_state TEXT NOT NULL, power_state TEXT NOT NULL,
    UNIQUE (cluster_id, datastore, vmx), CHECK ((provider_id IS NULL) = (key_id IS NULL))
  ) STRICT;
  CREATE INDEX vm_host ON vm (host_id);
  CREATE INDEX vm_key ON vm (provider_id, key_id);

  CREATE TABLE disk (
    vm_id TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE, id TEXT NOT NULL, position INTEGER NOT NULL,
    device TEXT NOT NULL, file TEXT NOT NULL, capacity_bytes INTEGER NOT NULL,
    policy_id TEXT NOT NULL REFERENCES storage_policy (id), provider_id TEXT, key_id TEXT,
    PRIMARY KEY (vm_id, id), CHECK ((provider_id IS NULL) = (key_id IS NULL))
  ) STRICT;
  CREATE INDEX disk_key ON disk (provider_id, key_id);

  CREATE TABLE task (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, entity TEXT NOT NULL, state TEXT NOT NULL,
    created_at TEXT NOT NULL, started_at TEXT, ended_at TEXT, error_code TEXT, error_message TEXT,
    done_bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX task_state ON task (state);

  CREATE TABLE event (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, time TEXT NOT NULL, details TEXT NOT NULL
  ) STRICT;

  INSERT INTO storage_policy (id, name, encryption, bundled) VALUES
    ('4d5f673c-536f-11e6-beb8-9e71128cae77', 'VM Encryption Policy', 1, 1),
    ('afe48ecc-a0b7-42bc-a34a-eb7f80f672f0', 'Datastore Default', 0, 1)
  `,
  `
  CREATE TABLE trusted_server (
    provider_id TEXT NOT NULL REFERENCES key_provider (id) ON DELETE CASCADE, host TEXT NOT NULL,
    port INTEGER NOT NULL, certificate TEXT NOT NULL, key_hash TEXT NOT NULL, trusted_at TEXT NOT NULL,
    PRIMARY KEY (provider_id, host, port, key_hash)
  ) STRICT;

  CREATE TABLE pending_client_certificate (
    provider_id TEXT PRIMARY KEY REFERENCES key_provider (id) ON DELETE CASCADE, kind TEXT NOT NULL,
    pem TEXT NOT NULL, private_key_file TEXT NOT NULL, created_at TEXT NOT NULL
  ) STRICT;

  CREATE TABLE key_provider_login (
    provider_id TEXT PRIMARY KEY REFERENCES key_provider (id) ON DELETE CASCADE, username TEXT NOT NULL,
    password_file TEXT NOT NULL
  ) STRICT;

  CREATE TABLE certificate_warning (
    key_hash TEXT NOT NULL, days INTEGER NOT NULL, PRIMARY KEY (key_hash, days)
  ) STRICT;

  -- Outlives its provider: the key is still at the KMS when the provider is added again.
  CREATE TABLE key_creation (
    name TEXT PRIMARY KEY, provider_id TEXT NOT NULL, server TEXT NOT NULL, key_id TEXT, began_at TEXT NOT NULL
  ) STRICT;
  CREATE INDEX key_creation_provider ON key_creation (provider_id)
  `,
  `
  CREATE TABLE host_link (
    host_id TEXT PRIMARY KEY REFERENCES host (id) ON DELETE CASCADE, host TEXT NOT NULL, port INTEGER NOT NULL,
    key_hash TEXT NOT NULL
  ) STRICT;

  CREATE TABLE host_authority (name TEXT PRIMARY KEY, pem TEXT NOT NULL) STRICT
  `,
  `
  -- The host key, by name.
  ALTER TABLE host ADD COLUMN provider_id TEXT;
  ALTER TABLE host ADD COLUMN key_id TEXT
  `,
  `
  -- The DEKs: their generations, which outlive the VM's registration, and the KEKs of an interrupted shallow recrypt.
  ALTER TABLE vm ADD COLUMN home_generation INTEGER;
  ALTER TABLE disk ADD COLUMN generation INTEGER;
  CREATE TABLE former_key (
    vm_id TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    provider_id TEXT NOT NULL, key_id TEXT NOT NULL, PRIMARY KEY (vm_id, position)
  ) STRICT;
  CREATE TABLE retired_generation (
    vm_id TEXT NOT NULL, part TEXT NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY (vm_id, part)
  ) STRICT;

  -- A rekey that ended is removed. vm_id may name a VM that is gone.
  CREATE TABLE rekey (
    id TEXT PRIMARY KEY, provider_id TEXT NOT NULL UNIQUE, new_provider_id TEXT NOT NULL, began_at TEXT NOT NULL
  ) STRICT;
  CREATE TABLE rekey_vm (
    rekey_id TEXT NOT NULL REFERENCES rekey (id) ON DELETE CASCADE, vm_id TEXT NOT NULL, name TEXT NOT NULL,
    state TEXT NOT NULL, provider_id TEXT, key_id TEXT, error_code TEXT, error_message TEXT,
    PRIMARY KEY (rekey_id, vm_id), CHECK ((provider_id IS NULL) = (key_id IS NULL))
  ) STRICT
  `,
  `
  CREATE TABLE missing_key (
    vm_id TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    provider_id TEXT NOT NULL, key_id TEXT NOT NULL, hop TEXT NOT NULL, code TEXT, message TEXT NOT NULL,
    since TEXT NOT NULL, PRIMARY KEY (vm_id, position)
  ) STRICT
  `,
  `
  CREATE TABLE vm_intent (
    vm_id TEXT PRIMARY KEY, kind TEXT NOT NULL, cluster_id TEXT NOT NULL REFERENCES cluster (id),
    datastore TEXT NOT NULL, vmx TEXT NOT NULL, keys TEXT NOT NULL, home_policy_id TEXT NOT NULL,
    disk_policy_ids TEXT NOT NULL, began_at TEXT NOT NULL
  ) STRICT
  `,
  `
  CREATE TABLE user (name TEXT PRIMARY KEY, created_at TEXT NOT NULL) STRICT;

  CREATE TABLE role (name TEXT PRIMARY KEY, privileges TEXT NOT NULL) STRICT;

  CREATE TABLE permission (
    user_name TEXT NOT NULL REFERENCES user (name) ON DELETE CASCADE, role TEXT NOT NULL,
    entity_type TEXT NOT NULL, entity_id TEXT NOT NULL, propagate INTEGER NOT NULL,
    PRIMARY KEY (user_name, entity_type, entity_id)
  ) STRICT;

  -- A VM that comes back has its id, and must not bring permissions of old with it.
  CREATE TRIGGER vm_permission AFTER DELETE ON vm BEGIN
    DELETE FROM permission WHERE entity_type = 'vm' AND entity_id = OLD.id;
  END;
  CREATE TRIGGER host_permission AFTER DELETE ON host BEGIN
    DELETE FROM permission WHERE entity_type = 'host' AND entity_id = OLD.id;
  END
  `,
  `
  ALTER TABLE event ADD COLUMN actor TEXT NOT NULL DEFAULT '';
  ALTER TABLE event ADD COLUMN hash TEXT NOT NULL DEFAULT '';

  -- Events up to origin are older than the chain.
  CREATE TABLE event_chain (
    only INTEGER PRIMARY KEY CHECK (only = 1), origin INTEGER NOT NULL, sequence INTEGER NOT NULL, hash TEXT NOT NULL
  ) STRICT;
  INSERT INTO event_chain
    SELECT 1, coalesce(max(sequence), 0), coalesce(max(sequence), 0), printf('%064d', 0) FROM event
  `,
  `
  ALTER TABLE storage_policy ADD COLUMN filters_before_encryption INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE storage_policy ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
  CREATE TABLE applied_policy (
    vm_id TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE, part TEXT NOT NULL, policy_id TEXT NOT NULL,
    version INTEGER NOT NULL, PRIMARY KEY (vm_id, part)
  ) STRICT
  `,
  `
  CREATE TABLE alarm (
    kind TEXT NOT NULL, entity_type TEXT NOT NULL, entity_name TEXT NOT NULL, status TEXT NOT NULL,
    message TEXT NOT NULL, event TEXT NOT NULL, sequence INTEGER NOT NULL, opened_at TEXT NOT NULL,
    acknowledged_by TEXT, acknowledged_at TEXT, PRIMARY KEY (kind, entity_type, entity_name)
  ) STRICT;
  -- Events that are older than alarms open none.
  CREATE TABLE alarm_position (only INTEGER PRIMARY KEY CHECK (only = 1), sequence INTEGER NOT NULL) STRICT;
  INSERT INTO alarm_position SELECT 1, sequence FROM event_chain
  `,
  `
  CREATE INDEX former_key_key ON former_key (provider_id, key_id);
  CREATE INDEX vm_policy ON vm (home_policy_id);
  CREATE INDEX disk_policy ON disk (policy_id)
  `,
  `
  ALTER TABLE cluster ADD COLUMN crypto_mode TEXT NOT NULL DEFAULT 'onDemand';
  ALTER TABLE cluster ADD COLUMN crypto_provider_id TEXT;
  ALTER TABLE cluster ADD COLUMN crypto_key_id TEXT
  `,
]
