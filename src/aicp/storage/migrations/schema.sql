CREATE TABLE alembic_version (
  version_num VARCHAR(32) NOT NULL,
  CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE chains (
  number INTEGER NOT NULL,
  chain_id TEXT NOT NULL,
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  status TEXT NOT NULL,
  total_tasks INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  submitted_at TEXT NOT NULL,
  ended_at TEXT,
  retry_of TEXT, checksum INTEGER, status_checksum INTEGER, key_checksum INTEGER, facts_min INTEGER, epoch_min INTEGER, task_ends INTEGER, needs INTEGER DEFAULT 0 NOT NULL, runs INTEGER, growth_check INTEGER, context TEXT, changed_at TEXT, parent TEXT, wake_at TEXT, wake_checksum INTEGER,
  PRIMARY KEY (number),
  UNIQUE (chain_id)
);
CREATE INDEX chains_of_tenant ON chains (tenant, number);
CREATE INDEX chains_of_tenant_by_status ON chains (tenant, status, number);
CREATE INDEX chains_by_status ON chains (status, number);
CREATE INDEX chains_unfinished ON chains (number) WHERE ended_at IS NULL;
CREATE INDEX chains_by_end ON chains (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE facts (
  chain_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  fact TEXT NOT NULL,
  result_digest BLOB, checksum INTEGER,
  PRIMARY KEY (chain_id, seq)
);
CREATE INDEX facts_by_result ON facts (result_digest) WHERE result_digest IS NOT NULL;
CREATE TABLE results (
  digest BLOB NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (digest)
);
CREATE TABLE submit_keys (
  tenant TEXT NOT NULL,
  "key" TEXT NOT NULL,
  digest BLOB NOT NULL,
  chain_id TEXT NOT NULL,
  at TEXT NOT NULL, checksum INTEGER,
  PRIMARY KEY (tenant, "key")
)
 WITHOUT ROWID
;
CREATE INDEX submit_keys_by_age ON submit_keys (at);
CREATE TABLE registrations (
  agent_id TEXT NOT NULL,
  profile TEXT NOT NULL,
  sealed_auth BLOB,
  saved_at TEXT NOT NULL, checksum INTEGER, more TEXT,
  PRIMARY KEY (agent_id)
);
CREATE TABLE api_keys (
  key_id TEXT NOT NULL,
  digest BLOB NOT NULL,
  described TEXT NOT NULL,
  created_at TEXT NOT NULL,
  expires_at TEXT,
  revoked_at TEXT, checksum INTEGER, revoked_checksum INTEGER, more TEXT,
  PRIMARY KEY (key_id),
  UNIQUE (digest)
);
CREATE TABLE audit (
  number INTEGER NOT NULL,
  at TEXT NOT NULL,
  key_id TEXT NOT NULL,
  tenant TEXT NOT NULL,
  action TEXT NOT NULL,
  object_id TEXT NOT NULL,
  status INTEGER NOT NULL,
  count INTEGER NOT NULL, checksum INTEGER,
  PRIMARY KEY (number)
);
CREATE INDEX audit_of_tenant ON audit (tenant, number);
CREATE TABLE agent_orders (
  agent_id TEXT NOT NULL,
  subject TEXT NOT NULL,
  command TEXT NOT NULL,
  ordered_at TEXT NOT NULL, checksum INTEGER,
  PRIMARY KEY (agent_id, subject)
);
CREATE TABLE clock_state (
  number INTEGER NOT NULL,
  body TEXT NOT NULL, checksum INTEGER,
  PRIMARY KEY (number)
);
CREATE INDEX chains_with_completed ON chains (number, tenant) WHERE (task_ends IS NULL OR task_ends / 16 <> epoch OR (task_ends & 1) <> 0);
CREATE INDEX chains_with_failed ON chains (number, tenant) WHERE (task_ends IS NULL OR task_ends / 16 <> epoch OR (task_ends & 2) <> 0);
CREATE INDEX chains_with_cancelled ON chains (number, tenant) WHERE (task_ends IS NULL OR task_ends / 16 <> epoch OR (task_ends & 4) <> 0);
CREATE INDEX chains_with_skipped ON chains (number, tenant) WHERE (task_ends IS NULL OR task_ends / 16 <> epoch OR (task_ends & 8) <> 0);
CREATE INDEX chains_by_submit ON chains (submitted_at, number);
CREATE INDEX chains_of_tenant_by_submit ON chains (tenant, submitted_at, number);
CREATE INDEX chains_by_name ON chains (name, tenant, number) WHERE name <> '';
CREATE INDEX chains_by_context ON chains (tenant, context, changed_at) WHERE context IS NOT NULL;
CREATE INDEX chains_by_parent ON chains (parent) WHERE parent IS NOT NULL;
CREATE INDEX chains_parked ON chains (wake_at) WHERE wake_at IS NOT NULL;
CREATE TABLE requests (
  chain_id TEXT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  body TEXT NOT NULL,
  "by" TEXT NOT NULL,
  at TEXT NOT NULL,
  checksum INTEGER,
  PRIMARY KEY (chain_id, name)
);
CREATE TABLE open_waits (
  chain_id TEXT NOT NULL,
  task_id TEXT NOT NULL,
  tenant TEXT NOT NULL,
  phase TEXT NOT NULL,
  since TEXT NOT NULL,
  due_at TEXT,
  title TEXT NOT NULL,
  checksum INTEGER,
  PRIMARY KEY (chain_id, task_id)
);
CREATE INDEX open_waits_of_tenant ON open_waits (tenant, phase, since, task_id);
CREATE INDEX open_waits_by_phase ON open_waits (phase, since, task_id);
CREATE TABLE capabilities (
  tenant TEXT NOT NULL,
  capability TEXT NOT NULL,
  slots INTEGER NOT NULL,
  latency_s DOUBLE,
  last_offered_at TEXT NOT NULL,
  described TEXT NOT NULL,
  checksum INTEGER,
  PRIMARY KEY (tenant, capability)
);
CREATE INDEX capabilities_by_age ON capabilities (last_offered_at);
INSERT INTO alembic_version VALUES ('0010');
