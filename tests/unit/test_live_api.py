"""Which table the live check goes by."""

from types import SimpleNamespace

from hwsim.api import live as api_live


def test_a_thin_table_measured_anew_gives_way_to_the_old_one(monkeypatch):
    old = SimpleNamespace(
        values={"gelu": 1, "embedding": 1}, alone={False: 1, True: 1}, shared={}
    )
    thin = SimpleNamespace(values={"gelu": 1}, alone=old.alone, shared={})
    said = []
    monkeypatch.setattr(api_live, "_busy", lambda: False)
    for found, kept in ((thin, old), (old, old)):
        monkeypatch.setattr(api_live, "_measured_host", lambda *_, f=found: f)
        host, table = api_live._anew(old, "shipped", 1.0, [1], said.append)
        assert host is kept
        assert ("otherwise" in table) == (found is thin)
    assert any("embedding" in text for text in said)
    host, _ = api_live._anew(old, "shipped", 1.0, [1, 2], said.append)
    assert "products on 2 threads" in said[-1]


def test_a_busy_host_measures_nothing_anew(monkeypatch):
    monkeypatch.setattr(api_live, "_busy", lambda: True)
    monkeypatch.delattr(api_live, "_measured_host")
    said = []
    host, table = api_live._anew("old", "shipped", 1.0, [1], said.append)
    assert (host, table) == ("old", "shipped, though operators run otherwise now")
    assert "busy" in said[0]


def test_a_busy_host_is_judged_by_one_thread(monkeypatch):
    seen = []

    def table(cases, budget):
        seen.append({case.threads for case in cases})

    monkeypatch.setattr(api_live, "_measured_table", table)
    for load, threads in (([9e9], {1}), ([0.0], {1, 2})):
        monkeypatch.setattr(api_live, "state", lambda load=load: {"load": load})
        assert api_live._still_holds(None, [1, 2], 90.0, seen.append)
        assert seen[-1] == threads
