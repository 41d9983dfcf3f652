"""Probes, erasures, concept vectors and the planted worlds of notebook 10: definitions, guarantees, bad input."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mi_course import probing
from mi_course.errors import CourseError

PUBLISHED = Path(__file__).parents[1] / "build" / "erasure"  # concept-erasure, by `make test-leace`


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.fixture
def planted():
    """600 rows of 8 correlated columns; the concept shifts them along one direction."""
    z = torch.rand(600, generator=torch.Generator().manual_seed(1)) < 0.4
    x = draw(600, 8) @ (torch.eye(8).double() + 0.5 * draw(8, 8, seed=2)) + z[:, None] * draw(8, seed=3)
    return x, z


# -- probes ----------------------------------------------------------------------------------------


def test_the_logistic_probe_is_scikit_learns(planted):
    x, z = planted
    for l2 in (0.5, 1.0, 20.0):
        ours = probing.logistic_probe(x, z, l2)
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1 / l2, tol=1e-10, max_iter=5000))
        theirs.fit(x.numpy(), z.numpy())
        # their scale divides by n, ours by n − 1: the penalty differs by as much
        wanted = torch.from_numpy(theirs.decision_function(x.numpy()))
        torch.testing.assert_close(ours.scores(x), wanted, atol=5e-3, rtol=5e-3)


def test_difference_of_means_points_from_without_to_with():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 7.0]])
    assert probing.difference_of_means(x, [1, 1, 0, 0]).tolist() == [2.0, -6.0]
    probe = probing.mean_probe(x, [1, 1, 0, 0])
    assert probe.accuracy(x, [1, 1, 0, 0]) == 1.0
    middle = torch.tensor([[1.0, 3.0]])  # half way between the means
    assert abs(float(probe.scores(middle))) < 1e-12


@torch.no_grad()  # as in a notebook that has switched gradients off
def test_only_the_nonlinear_probe_reads_an_xor():
    x = draw(2000, 2, seed=4)
    z = (x[:, 0] * x[:, 1]) > 0
    assert probing.logistic_probe(x[:1000], z[:1000]).accuracy(x[1000:], z[1000:]) < 0.6
    assert probing.mlp_probe(x[:1000], z[:1000]).accuracy(x[1000:], z[1000:]) > 0.9


def test_auc_counts_pairs():
    scores, z = torch.tensor([0.1, 0.4, 0.4, 0.9]), [0, 0, 1, 1]
    pairs = [1.0, 1.0, 0.5, 1.0]  # (.4 .1) (.9 .1) (.4 .4) (.9 .4)
    assert probing.auc(scores, z) == pytest.approx(np.mean(pairs))
    assert probing.auc(-scores, z) == pytest.approx(1 - np.mean(pairs))


def test_precision_is_bayes_rule():
    assert probing.precision_at(0.5, 0.9, 0.1) == pytest.approx(0.9)
    assert probing.precision_at(0.0001, 1.0, 0.01) == pytest.approx(0.0001 / (0.0001 + 0.9999 * 0.01))
    with pytest.raises(CourseError, match="no alarms at all"):
        probing.precision_at(0.5, 0.0, 0.0)
    with pytest.raises(CourseError, match="are shares"):
        probing.precision_at(50, 1.0, 0.1)


def test_control_labels_belong_to_types_and_balanced_rows_are_half_and_half():
    types = torch.tensor([3, 3, 9, 9, 9, 40])
    labels = probing.control_labels(types, seed=1)
    assert all(len(set(labels[types == t].tolist())) == 1 for t in (3, 9, 40))
    many = probing.control_labels(torch.arange(2000))
    assert 0.45 < many.double().mean() < 0.55
    z = torch.arange(50) < 12
    rows = probing.balanced(z)
    assert len(rows) == 24 and z[rows].sum() == 12 and len(rows.unique()) == 24


# -- splits ----------------------------------------------------------------------------------------


def test_whole_documents_are_held_out():
    documents = torch.arange(40).repeat_interleave(5)
    z = torch.arange(200) % 2
    held = probing.held_out(documents, z, 0.25, seed=3)
    assert held.view(40, 5).float().mean(1).unique().tolist() == [0.0, 1.0] and held.sum() == 50
    assert not torch.equal(held, probing.held_out(documents, z, 0.25, seed=4))


def test_strings_and_comments_are_those_of_python():
    source = "x = 1  # one\ny = \"a#b\" + '''two\nlines'''\nz = 3\n"
    inside = probing.inside_text(source)
    said = "".join(c if i else "·" for c, i in zip(source, inside))
    assert said.replace("·", "") == "# one" + '"a#b"' + "'''two\nlines'''"
    assert probing.inside_text("x = '''never closed") is None


@pytest.mark.parametrize("end", ["\x0c", "\x0b", "\x1c", "\x85", "\u2028", "\u2029"])
def test_what_only_splitlines_takes_for_a_line_end_shifts_no_label(end):
    source = f"# be{end}fore\nx = 'a{end}b' + '''two{end}\nlines'''  # one\n"
    said = "".join(c for c, i in zip(source, probing.inside_text(source)) if i)
    assert said == f"# be{end}fore" + f"'a{end}b'" + f"'''two{end}\nlines'''" + "# one"


# -- erasure ---------------------------------------------------------------------------------------


def test_leace_is_its_formula(planted):
    """r(x) = x − W⁺ P W (x − μ), written out."""
    x, z = planted
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    W = vectors @ torch.diag(values**-0.5) @ vectors.T
    u = W @ probing.cross_covariance(x, z)
    P = u @ u.T / (u.T @ u)
    wanted = x - (x - x.mean(0)) @ (torch.linalg.inv(W) @ P @ W).T
    torch.testing.assert_close(probing.leace(x, z)(x), wanted)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="concept-erasure is not here: make test-leace")
def test_leace_is_that_of_its_authors_package(tmp_path):
    """In a process of its own. Their default shrinks Σ even where there are rows enough: then it moves more."""
    code = """
import torch
from concept_erasure import LeaceEraser
from mi_course import probing
draw = torch.Generator().manual_seed(0)
classes = torch.randint(0, 4, (3000,), generator=draw)
x = torch.randn(3000, 24, generator=draw).double() @ (torch.eye(24) + 0.3 * torch.randn(24, 24, generator=draw)).double()
x = x + torch.randn(4, 24, generator=draw).double()[classes]
for z, given in ((classes, torch.nn.functional.one_hot(classes).double()), (classes == 1, (classes == 1).double()[:, None])):
    ours, theirs = probing.leace(x, z)(x), LeaceEraser.fit(x, given, shrinkage=False)(x)
    assert (ours - theirs).abs().max() <= 1e-6, (ours - theirs).abs().max()
assert probing.change(x, ours) <= probing.change(x, LeaceEraser.fit(x, given)(x))
"""
    paths = os.pathsep.join([str(PUBLISHED.parents[1]), os.environ.get("PYTHONPATH", ""), str(PUBLISHED)])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr


def test_after_leace_no_linear_probe_reads_it_and_before_one_does(planted):
    x, z = planted
    erased, most = probing.leace(x, z)(x), float((~z).double().mean())
    assert probing.logistic_probe(x, z).accuracy(x, z) > most + 0.2
    assert probing.cross_covariance(erased, z).abs().max() < 1e-12
    for l2 in (1e-3, 1.0, 100.0):
        assert probing.logistic_probe(erased, z, l2).accuracy(erased, z) <= most + 0.01
    torch.testing.assert_close(erased.mean(0), x.mean(0))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_guard_changes_less(planted, seed):
    """Any map x − s w·(x − μ)/(w·s) erases; LEACE's w costs least."""
    x, z = planted
    best = probing.change(x, probing.leace(x, z)(x))
    s = probing.cross_covariance(x, z)[:, 0]
    w = draw(8, seed=10 + seed)
    rival = x - ((x - x.mean(0)) @ w / (w @ s))[:, None] * s
    assert probing.cross_covariance(rival, z).abs().max() < 1e-9
    assert best <= probing.change(x, rival)
    assert best <= probing.change(x, probing.mean_projection(x, z)(x)) + 1e-12


def test_many_classes_and_numbers_are_erased():
    classes = torch.randint(0, 4, (900,), generator=torch.Generator().manual_seed(0))
    x = draw(900, 7) + draw(4, 7, seed=1)[classes]
    erase = probing.leace(x, classes)
    means = torch.stack([erase(x)[classes == k].mean(0) for k in range(4)])
    assert erase.rank == 3 and (means - means[0]).abs().max() < 1e-10
    numbers = draw(900, 2, seed=5)
    y = draw(900, 7, seed=6)
    y[:, :2] += numbers
    assert probing.cross_covariance(probing.leace(y, numbers)(y), numbers).abs().max() < 1e-12


def test_inlp_guards_and_costs_more(planted):
    x, z = planted
    erase = probing.inlp(x, z)
    most = float((~z).double().mean())
    assert probing.logistic_probe(erase(x), z).accuracy(erase(x), z) <= most + 0.011
    assert erase.rank >= 1
    assert probing.change(x, erase(x)) >= probing.change(x, probing.leace(x, z)(x))
    with pytest.raises(CourseError, match="one concept"):
        probing.inlp(x, torch.arange(600) % 3)


def test_the_random_control_leaves_the_concept(planted):
    x, z = planted
    erase = probing.random_projection(x, 2, seed=1)
    assert erase.rank == 2
    assert probing.logistic_probe(erase(x), z).accuracy(erase(x), z) > 0.75


def test_the_oracle_changes_less_and_can_write_the_label():
    z = torch.rand(4000, generator=torch.Generator().manual_seed(0)) < 0.5
    coin = torch.rand(4000, generator=torch.Generator().manual_seed(1))
    x = torch.where(z, coin < 0.9, coin < 0.5).double()[:, None]
    erased = probing.oracle_erase(x, z)
    assert probing.cross_covariance(erased, z).abs().max() < 1e-12
    assert probing.change(x, erased) <= probing.change(x, probing.leace(x, z)(x))
    before = probing.mlp_probe(x, z).accuracy(x, z)
    after = probing.mlp_probe(erased, z, steps=1500).accuracy(erased, z)
    assert before < 0.75 < 0.95 < after


def test_an_erasure_takes_any_axes_and_keeps_the_type(planted):
    x, z = planted
    erase = probing.leace(x, z)
    stream = x.view(20, 30, 8).float()
    assert erase(stream).shape == (20, 30, 8) and erase(stream).dtype == torch.float32


# -- bad input -------------------------------------------------------------------------------------


def test_fewer_rows_than_dimensions_are_shrunk_and_said():
    x, z = draw(30, 50), torch.arange(30) % 2
    with pytest.warns(UserWarning, match="30 rows are fewer than 50 dimensions"):
        erase = probing.leace(x, z)
    assert probing.cross_covariance(erase(x), z).abs().max() < 1e-10
    probe = probing.logistic_probe(x, z)
    assert probe.w.isfinite().all() and probe.accuracy(x, z) == 1.0


def test_constant_columns_and_a_singular_covariance(planted):
    x, z = planted
    wide = torch.cat([x, torch.full((600, 1), 3.0).double(), x[:, :2]], dim=1)  # a constant, two copies
    probe = probing.logistic_probe(wide, z)
    assert probe.w[8] == 0
    erased = probing.leace(wide, z)(wide)
    assert probing.cross_covariance(erased, z).abs().max() < 1e-10
    torch.testing.assert_close(erased[:, 8], wide[:, 8])
    torch.testing.assert_close(erased[:, 9:], erased[:, :2])


@pytest.mark.parametrize(
    "use", [probing.logistic_probe, probing.difference_of_means, probing.leace, probing.mlp_probe]
)
def test_bad_rows_and_labels_end_in_a_sentence(use):
    x, z = draw(10, 3), torch.arange(10) % 2
    holed = x.clone()
    holed[4, 2] = float("nan")
    with pytest.raises(CourseError, match="NaN or infinity .first in row 4, column 2"):
        use(holed, z)
    with pytest.raises(CourseError, match="All 10 labels are 1"):
        use(x, torch.ones(10))
    with pytest.raises(CourseError, match="There are 10 rows"):
        use(x, z[:7])
    with pytest.raises(CourseError, match=r"must be \[row d\]"):
        use(x[:, 0], z)


def test_labels_of_a_probe_are_no_and_yes():
    with pytest.raises(CourseError, match="one concept at a time"):
        probing.logistic_probe(draw(9, 2), torch.arange(9) % 3)
    with pytest.raises(CourseError, match="l2=0"):
        probing.logistic_probe(draw(9, 2), torch.arange(9) % 2, 0)
    with pytest.raises(CourseError, match="the concept is"):
        probing.leace(draw(9, 2), torch.zeros(9, 2, 2))
    with pytest.raises(CourseError, match="No column of x changes"):
        probing.leace(torch.ones(9, 2), torch.arange(9) % 2)
    with pytest.raises(CourseError, match="rank=5"):
        probing.random_projection(draw(9, 2), 5)
    with pytest.raises(CourseError, match="what is left"):
        probing.change(draw(9, 2), draw(9, 3))


def test_a_label_that_is_a_function_of_the_fold_is_refused():
    documents = torch.tensor([0, 0, 1, 1])
    with pytest.raises(CourseError, match="function of the fold"):
        probing.held_out(documents, [0, 0, 1, 1], 0.5)
    with pytest.warns(UserWarning, match="which document it is"):
        probing.held_out(torch.arange(8).repeat_interleave(2), torch.arange(8).repeat_interleave(2) % 2, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probing.held_out(torch.arange(8).repeat_interleave(2), torch.arange(16) % 2, 0.5)
    with pytest.raises(CourseError, match="leave one part empty"):
        probing.held_out(documents, None, 0.1)


# -- concepts --------------------------------------------------------------------------------------


def test_tcav_finds_the_planted_direction():
    gradients = draw(200, 6, seed=1) + 3 * torch.eye(6).double()[0]
    sets = lambda seed, shift=0.0: [
        draw(60, 6, seed=seed + i) + shift * torch.eye(6).double()[0] for i in range(20)
    ]
    found = probing.concept_test(gradients, sets(100, 2.0), sets(200), sets(300))
    assert found.scores.mean() > 0.95 and len(found.random_scores) == 20
    assert probing.tcav_score(gradients, torch.eye(6).double()[0]) > 0.97
    assert probing.tcav_score(gradients, -torch.eye(6).double()[0]) < 0.03
    varied = draw(400, 6, seed=2) + 0.8 * torch.eye(6).double()[0]
    used = probing.concept_test(varied, sets(400, 3.0), sets(500), sets(600))
    unused = probing.concept_test(draw(400, 6, seed=3), sets(400, 3.0), sets(500), sets(600))
    assert used.p < unused.p and used.t_p < 0.05


def test_tcav_wants_enough_sets():
    sets = [draw(10, 3, seed=i) for i in range(10)]
    with pytest.raises(CourseError, match="at least 19"):
        probing.concept_test(draw(5, 3), sets, sets, sets)
    with pytest.raises(CourseError, match="each meets one"):
        probing.concept_test(draw(5, 3), sets[:3], sets, sets)


# -- planted worlds --------------------------------------------------------------------------------


def test_games_follow_their_rules():
    games = probing.play(50, 5, 9, seed=2)
    board = torch.zeros(50, 5)
    for turn in range(9):
        player = 1.0 if turn % 2 == 0 else -1.0
        move = games.moves[:, turn]
        assert (board.gather(1, move[:, None])[:, 0] != player).all()
        board.scatter_(1, move[:, None], player)
        assert torch.equal(games.black[:, turn], board == 1) and torch.equal(
            games.white[:, turn], board == -1
        )
        assert torch.equal(games.mine[:, turn], board == -player)
        assert torch.equal(games.legal[:, turn], board != -player)
    with pytest.raises(CourseError, match="at least 3"):
        probing.play(2, 2)


def test_adverts_hold_what_was_planted():
    world = probing.Adverts()
    users = world.users(400_000, seed=1)
    assert users.x.shape == (400_000, 16)
    told = (users.x[:, 4] * users.x[:, 5] > 0) == users.group
    assert abs(told.double().mean() - 0.8) < 0.01
    for column in (4, 5):  # each alone tells nothing
        assert abs(probing.auc(users.x[:, column], users.group) - 0.5) < 0.01
    guess = world.posterior(users.x)
    for low in (0.05, 0.3, 0.7, 0.9):  # calibrated: of those said to be p, p are
        near = (guess - low).abs() < 0.02
        assert abs(users.group[near].double().mean() - guess[near].double().mean()) < 0.02
    best = world.best(users.x)
    near = (best - 0.6).abs() < 0.02
    assert abs(users.click[near].double().mean() - 0.6) < 0.03
    assert probing.group_gap(users.click.float(), users.group) > 0.2
    with pytest.raises(CourseError, match="agree=0.2"):
        probing.Adverts(agree=0.2)
