import json
import locale
import re
import shutil
from pathlib import Path

import pytest

from eet.gallery import read_hits, spread_queries, write_hits
from eet.retrieval import matches, panels, regions
from pipelines import encode, report, rerank, search
from pipelines.job.options import DataOptions


@pytest.fixture(scope="module")
def searched(tiny_model, tiny_birds, tmp_path_factory) -> Path:
    """A gallery and its hits, by a search that named the model."""
    folder = tmp_path_factory.mktemp("searched")
    data = DataOptions(name="synthetic", root=str(tiny_birds))
    gallery = str(folder / "gallery")
    encode.run(encode.EncodeConfig(model=str(tiny_model), data=data, split="test", out=gallery, engine="local"))
    search.run(search.SearchConfig(gallery=gallery, queries=gallery, model=str(tiny_model), k=6, out=str(folder / "hits.parquet")))
    return folder


def test_the_page_stands_alone_and_shows_each_query_and_what_was_kept_of_it(searched, tmp_path):
    page = report.run(report.ReportConfig(hits=str(searched / "hits.parquet"), out=str(tmp_path / "r"), num_queries=3, top=4))
    html = Path(page).read_text()
    assert Path(page) == tmp_path / "r" / "report.html"
    sources = re.findall(r'<img[^>]* src="([^"]*)"', html)
    assert len(sources) == 3 + 3 + 1 and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r'(src|href)="https?:|@import|url\((?!data:)', html)
    shown = spread_queries(read_hits(str(searched / "hits.parquet")), 3)
    assert len(set(shown)) == 3 and all(html.count(query) >= 2 for query in shown)
    assert "its 4 nearest items" in html
    assert html.index("What the network kept") < html.index("Patch similarity") and "mean cosine of two patches after each block" in html
    assert (tmp_path / "r" / "config.yaml").is_file()


def test_an_image_that_went_away_is_said_and_not_fatal(searched, tiny_birds, tmp_path, monkeypatch):
    from eet.images import DecodeFailure

    monkeypatch.setattr(panels, "read_image", lambda _: DecodeFailure("missing", "gone"))
    page = report.run(report.ReportConfig(hits=str(searched / "hits.parquet"), out=str(tmp_path / "r"), num_queries=2))
    assert Path(page).read_text().count("can no longer be read") == 2


def test_an_image_outside_of_the_gallery_s_inputs_is_not_embedded(searched, tmp_path, capsys):
    """A foreign gallery may name any file as the uri of a row."""
    moved = tmp_path / "gallery"
    shutil.copytree(searched / "gallery", moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    (moved / "manifest.json").write_text(json.dumps({**manifest, "inputs": [str(tmp_path / "elsewhere")]}))
    options = {"hits": str(searched / "hits.parquet"), "gallery": str(moved), "queries": str(moved), "num_queries": 2, "top": 2}
    html = Path(report.run(report.ReportConfig(**options, out=str(tmp_path / "r")))).read_text()
    assert "<img" not in html and html.count(f"its image lies outside of {tmp_path}/elsewhere") == 2
    assert "note: 2 images lie outside" in capsys.readouterr().out
    html = Path(report.run(report.ReportConfig(**options, image_roots=("/",), out=str(tmp_path / "s")))).read_text()
    assert html.count("<img") >= 2 and "lies outside" not in html


def test_the_page_is_utf_8_in_any_locale_and_found_from_any_folder(searched, tmp_path, monkeypatch):
    monkeypatch.setattr(locale, "getpreferredencoding", lambda *_: "ascii")
    monkeypatch.setattr(locale, "getencoding", lambda: "ascii", raising=False)
    monkeypatch.chdir(searched)
    search.run(search.SearchConfig(gallery="gallery", queries="gallery", k=3, out="relative.parquet"))
    monkeypatch.chdir(tmp_path)
    page = report.run(report.ReportConfig(hits=str(searched / "relative.parquet"), out=str(tmp_path / "é"), num_queries=2))
    assert Path(page).read_bytes().decode("utf-8").count("<img") == 2


def test_hits_alone_know_their_gallery_and_those_of_older_versions_need_it(searched, tmp_path):
    lonely = tmp_path / "hits.parquet"
    lonely.write_bytes((searched / "hits.parquet").read_bytes())
    assert report.described(str(lonely))["gallery"] == str(searched / "gallery")
    report.run(report.ReportConfig(hits=str(lonely), out=str(tmp_path / "whole"), num_queries=2))
    write_hits(str(lonely), read_hits(str(lonely)))
    with pytest.raises(ValueError, match="give --gallery"):
        report.run(report.ReportConfig(hits=str(lonely), out=str(tmp_path / "r")))
    page = report.run(report.ReportConfig(hits=str(lonely), gallery=str(searched / "gallery"), out=str(tmp_path / "r"), num_queries=2))
    assert Path(page).read_text().count("<img") == 2  # no model named: no kept tokens


def test_a_dry_run_writes_nothing(searched, tmp_path, capsys):
    report.run(report.ReportConfig(hits=str(searched / "hits.parquet"), out=str(tmp_path / "r"), dry_run=True))
    assert "nothing was started" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("marginal", "solver"), [("softmax", "sinkhorn"), ("importance", "maxsim")])
def test_of_re_ranked_hits_it_shows_before_after_and_what_was_matched(marginal, solver, tiny_model, tiny_birds, tmp_path, monkeypatch):
    data = DataOptions(name="synthetic", root=str(tiny_birds))
    gallery, hits, new = str(tmp_path / "gallery"), str(tmp_path / "hits.parquet"), str(tmp_path / "new.parquet")
    encode.run(encode.EncodeConfig(model=str(tiny_model), data=data, split="test", out=gallery, engine="local", tokens=True))
    search.run(search.SearchConfig(gallery=gallery, queries=gallery, model=str(tiny_model), k=6, out=hits))
    options = {"marginal": marginal, "solver": solver}
    rerank.run(rerank.RerankConfig(hits=hits, gallery=gallery, queries=gallery, out=new, engine="local", **options))
    drawn, real = [], matches.matches_panel
    monkeypatch.setattr(matches, "matches_panel", lambda *given, **more: (drawn.append((given, more)), real(*given, **more))[1])
    html = Path(report.run(report.ReportConfig(hits=new, out=str(tmp_path / "r"), num_queries=2, top=4))).read_text()
    assert html.index("Before re-ranking") < html.index("After re-ranking") < html.index("Matched regions")
    assert len(drawn) == 2 * 3 and html.count("<img") == 2 + 2 + 6 + 2 + 1
    query, item, grid, lines = drawn[0][0]
    assert grid == (6, 6) and 1 <= len(lines) <= regions.LINES
    assert {line.query for line in lines} <= set(query.positions_K.tolist())
    assert {line.item for line in lines} <= set(item.positions_K.tolist())
    assert query.mass_K.sum() == pytest.approx(1, abs=1e-3)
    if solver == "maxsim":  # each token of the query is matched with one token alone
        assert all(len({line.query for line in given[3]}) == len(given[3]) for given, _ in drawn)


def test_of_places_it_shows_a_map_and_recall_over_the_radius(placed, tmp_path, capsys):
    config = report.ReportConfig(hits=str(placed / "hits.parquet"), out=str(tmp_path / "r"), num_queries=1, metres=15)
    html = Path(report.run(config)).read_text()
    places = [html.index(text) for text in ("map of the queries and their first hits", "recall@1 over the radius", "its 5 nearest items")]
    assert places == sorted(places) and "lie outside" not in capsys.readouterr().out
