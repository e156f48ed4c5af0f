-- The file of a SQLiteStore, version 1. Times are Unix time in milliseconds.
-- A vector is one text, "0 0 0 0 0 0": an integer for each of HELD_METERS, usd in nano-dollars.
-- As text they are exact at any size; SQLite's own integers end at 2^63.

CREATE TABLE account (
    key       INTEGER PRIMARY KEY,
    tenant    TEXT NOT NULL,
    budget    TEXT NOT NULL,
    id        TEXT NOT NULL,
    "window"  TEXT NOT NULL,
    epoch     INTEGER NOT NULL, -- when it was made
    version   INTEGER NOT NULL,
    settled   TEXT NOT NULL,
    held      TEXT NOT NULL, -- the sum of its records of kind 'hold'
    reserved  TEXT NOT NULL, -- the sum of its records of kind 'reserve'
    extra     TEXT NOT NULL,
    overshoot TEXT NOT NULL,
    released  INTEGER NOT NULL,
    late      INTEGER NOT NULL,
    forget    INTEGER NOT NULL, -- when it may be forgotten
    UNIQUE (tenant, budget, id, "window")
);

CREATE INDEX account_forget ON account (forget);

-- What is known of one id in one account, by kind:
--   hold       a call in flight; vector: what it holds; until: its lease
--   reserve    an agent loop; vector: what it keeps for its last call; until: its lease
--   expired    a hold whose lease ran out; until: when it is forgotten
--   settled    a settlement without a hold; until: when it is forgotten
--   extension  a change of the limits, remembered as long as the account
CREATE TABLE record (
    account INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    id      TEXT NOT NULL,
    vector  TEXT NOT NULL,
    until   INTEGER NOT NULL,
    PRIMARY KEY (account, kind, id)
) WITHOUT ROWID;

CREATE INDEX record_lease ON record (account, until) WHERE kind IN ('hold', 'reserve');
CREATE INDEX record_forget ON record (until) WHERE kind IN ('expired', 'settled');

-- What was saved by name.
CREATE TABLE saved (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
