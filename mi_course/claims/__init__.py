"""The ledger of claims: read, settle, table."""

from mi_course.claims.ledger import (
    CORRECTIONS,
    MARKS,
    NEEDS_WHY,
    OPERATORS,
    RECORDED,
    ROLES,
    SHOWN,
    Claim,
    Correction,
    Measure,
    Number,
    Paper,
    SettleError,
    built,
    claim_of,
    corrections,
    ledger,
    read_toml,
    shown_value,
)
from mi_course.claims.scoreboard import Row, Scoreboard
from mi_course.claims.settling import (
    LEFT,
    NOT_RUN,
    PAYLOAD,
    Computed,
    NotRun,
    Settled,
    Verdicts,
    computed,
    forget,
    not_run,
    settle,
    verdicts,
)
