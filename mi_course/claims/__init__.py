"""The ledger of claims: read, settle, table."""

from mi_course.claims.ledger import (
    CORRECTIONS,
    MARKS,
    NEEDS_WHY,
    OPERATORS,
    RECORDED,
    SHOWN,
    Claim,
    Correction,
    Measure,
    Number,
    Paper,
    SettleError,
    claim_of,
    corrections,
    ledger,
)
from mi_course.claims.scoreboard import Row, Scoreboard
from mi_course.claims.settling import LEFT, PAYLOAD, Settled, Verdicts, forget, settle, verdicts
