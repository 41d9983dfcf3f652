"""The ledger of claims: read, settle, table.

>>> from mi_course import claims
>>> claim = claims.claim_of("MF-02")
>>> claim.paper.cite(), claim.notebooks
('Elhage et al. 2021', ('00', '02'))
>>> [measure.shown_bound() for measure in claim.measures][:1]
['≤ 1e-05']
"""

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
    NullTable,
    Settled,
    Verdicts,
    computed,
    forget,
    not_run,
    null_table,
    settle,
    verdicts,
)
