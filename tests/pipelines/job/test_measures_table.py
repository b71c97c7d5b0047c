from pipelines.job.measures_table import print_measures


def test_rankings_are_columns_with_half_of_their_intervals_within_100_characters(capsys):
    measures = {"mAP": 0.5, "mAP_low": 0.45, "mAP_high": 0.57, "recall@1": 0.25, "queries": 12}
    names = [f"{half}, {order}" for half in ("judged", "held out") for order in ("before", "reranked")]
    print_measures({**dict.fromkeys(names, measures), "held out, reranked": {"mAP": 0.75}}, title="test split")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100 and "test split" in printed and "95 % confidence interval" in printed
    rows = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]] for line in printed.splitlines() if "│" in line}
    assert rows == {"mAP": [*["0.5000 ±0.0600"] * 3, "0.7500"], "recall@1": [*["0.2500"] * 3, ""], "queries": [*["12"] * 3, ""]}
    assert all(name in printed for name in names)


def test_without_intervals_the_table_does_not_mention_them(capsys):
    print_measures({"encoded": {"mAP": 0.5}})
    assert "±" not in capsys.readouterr().out


def test_queries_without_a_match_have_a_row_only_if_there_are_some(capsys):
    without = "queries_without_relevant"
    print_measures({"seen": {"mAP": 0.5, without: 0}, "unseen": {"mAP": 0.5, without: 0}})
    assert "queries_without" not in capsys.readouterr().out
    print_measures({"seen": {"mAP": 0.5, without: 0}, "unseen": {"mAP": 0.5, without: 3}})
    assert [line.split("│")[2:4] for line in capsys.readouterr().out.splitlines() if without in line] == [["      0 ", "      3 "]]
