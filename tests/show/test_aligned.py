"""The frontier and the tokens' rewards without a browser: what sliders choose, what is shown, what is refused."""

import pytest

from ftlab.errors import UsageError
from ftlab.show import style, widgets

CURVES = {
    "DPO": [{"beta": b, "kl": k, "utility": u, "valid": 0.97, "sample": f"<DPO at {b}>"}
            for b, k, u in ((0.05, 9.0, 0.5), (0.1, 6.0, 0.6), (0.5, 1.0, 0.3))],
    "PPO": [{"kl_coef": 0.05, "kl": 10.0, "utility": 0.55, "length": 60.0}],
}


@pytest.fixture
def frontier():
    view = widgets.frontier_view(CURVES)
    view.widget  # noqa: B018
    return view


def test_the_slider_chooses_the_point_and_its_card(frontier):
    assert [text for text, _ in frontier.sliders["DPO"].options] == ["0.05", "0.1", "0.5"]
    assert "DPO, beta 0.1" in frontier.output.value and "&lt;DPO at 0.1&gt;" in frontier.output.value
    frontier.sliders["DPO"].value = 2
    html = frontier.output.value
    assert frontier.point("DPO")["beta"] == 0.5 and "&lt;DPO at 0.5&gt;" in html and "&lt;DPO at 0.1&gt;" not in html
    assert "valid stories" in html and "97 %" in html and "PPO, kl_coef 0.05" in html and "<DPO" not in html
    assert html.count("<polyline") == 2 and html.count('r="8.5"') == 2 and frontier.status.value == ""


def test_shapes_tell_methods_apart_without_colour(frontier):
    html = frontier.output.value
    assert html.count('<circle') == 3 + 2 and html.count("<rect") == 1  # points of DPO, two rings; the point of PPO


def test_points_and_curves_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="at least one point"):
        widgets.frontier_view({"DPO": []})
    with pytest.raises(UsageError, match="a point of DPO has no number called 'kl'"):
        widgets.frontier_view({"DPO": [{"beta": 1, "utility": 0.1}]})
    with pytest.raises(UsageError, match="a point of IPO has no number called 'tau'"):
        widgets.frontier_view({"IPO": [{"kl": 1, "utility": 0.1}]}, strengths={"IPO": "tau"})
    assert widgets.frontier_view({"DPO": [{"beta": 1, "kl": 0.0, "utility": 0.0}]}).html()


def test_pictures_stand_for_both(frontier):
    assert frontier.picture().png().startswith(b"\x89PNG") and "true utility" in frontier.picture().alt
    assert tokens().picture().png().startswith(b"\x89PNG")


def tokens():
    return widgets.token_rewards_view({"chosen": [" a", " <fox>", "\n"], "rejected": [" a", " cat"]},
                                      {"chosen": [0.0, 1.0, -0.25], "rejected": [0.5, -2.0]})


def test_tokens_are_shaded_on_one_scale_with_their_sums():
    html = tokens().widget.value
    assert "chosen: sum +0.75 nats over 3 tokens" in html and "rejected: sum −1.50 nats over 2 tokens" in html
    assert "chosen − rejected: <b>+2.25</b> nats" in html
    assert 'title="−2.000 nats"' in html and 'title="+1.000 nats"' in html
    assert style.rgba(style.BLUE, 0.3) in html and style.rgba(style.VERMILLION, 0.6) in html
    assert "␣&lt;fox&gt;" in html and "<fox>" not in html
    # Told without colour, too.
    assert html.index("2px dotted") > 0 and html.count("2px dotted") == 2 + 1  # and the key's


def test_one_text_and_none_and_too_many():
    assert "text: sum +1.00 nats over 1 tokens" in widgets.token_rewards_view([" a"], [1.0]).html()
    assert "sum +0.00 nats over 0 tokens" in widgets.token_rewards_view([], []).html()
    assert "and 600 more" in widgets.token_rewards_view([" a"] * 1000, [0.1] * 1000).html()
    with pytest.raises(UsageError, match="chosen: 2 tokens and 1 values"):
        widgets.token_rewards_view({"chosen": ["a", "b"]}, {"chosen": [1.0]})
