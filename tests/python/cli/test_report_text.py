"""What `profilomatic report` prints: golden texts of a made-up day of a shop, and what must hold for any text."""

import io
import json
import os
import pathlib
import re
import sys
import zipfile

import pytest
import record_builder as build

from profilomatic import _terminal, report

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    build.write(folder / "day.jsonl", build.shop_day())
    build.write_sources(folder / "sources")
    return folder


@pytest.fixture
def day(shop, monkeypatch):
    monkeypatch.chdir(shop)  # golden texts show the name as it was given
    return pathlib.Path("day.jsonl")


@pytest.fixture
def sources(shop):
    return shop / "sources"


def check_golden(name, text):
    """Compares with golden/NAME; POM_GOLDEN=write accepts the text as the new one."""
    path = GOLDEN / name
    if os.environ.get("POM_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


GOLDENS = {
    "report.txt": ["--top", "6"],
    "report_by_cpu_leaf.txt": ["--top", "6", "--sort", "cpu", "--leaf"],
    "report_no_source.txt": ["--top", "3", "--no-source", "--by", "type"],
    "task.txt": ["--task", "00000011-0000-4000-8000-00000000c"],
    "task_all.txt": ["--task", "00000011-0000-4000-8000-00000000c", "--all"],
    "task_bottom_up.txt": ["--task", "00000003-0000-4000-8000-0000000000a", "--bottom-up"],
    "bottom_up.txt": ["--bottom-up", "--top", "5"],
}


@pytest.mark.parametrize("name", GOLDENS)
def test_report_prints_the_golden_text(name, day, sources, show):
    arguments = GOLDENS[name]
    source = [] if "--no-source" in arguments else ["--source-root", sources]
    status, out, err = show(day, *arguments, *source)
    assert (status, err) == (0, "")
    check_golden(name, out)


@pytest.mark.parametrize("name", GOLDENS)
def test_no_line_is_wider_than_a_hundred_columns(name, day, sources, show):
    _, out, _ = show(day, *GOLDENS[name], "--source-root", sources)
    assert max(_terminal.width(line) for line in out.splitlines()) <= 100


def test_top_is_the_rows_of_every_section(day, show):
    def rows(title, *arguments):
        _, out, _ = show(day, "--no-source", "--by", "type", *arguments)
        section = ("\n" + out).split("\n" + title)[1].split("\n\n")[0].splitlines()[2:]
        return [row for row in section if " more; --top" not in row]

    everything = rows("TYPES")
    assert rows("TYPES", "--top", "2") == everything[:2] != everything
    assert len(rows("SLOWEST ACTIONS", "--top", "1")) == 1


def test_colours_change_nothing_but_colours(day, sources, show):
    _, plain, _ = show(day, "--source-root", sources)
    _, coloured, _ = show(day, "--source-root", sources, "--color", "always")
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


def test_guilty_line_of_rare_slow_requests_is_named(day, sources, show):
    """The planted line takes a tenth of all time and is in two of a hundred carts: the hottest table alone hides it."""
    _, out, _ = show(day, "--source-root", sources)
    section = out[out.index("WHAT MAKES THE SLOW ONES SLOW") : out.index("ROUTES")]
    assert "shop/pricing.py:44 check_voucher" in section
    assert "if not re.match(voucher.pattern, code):" in section
    assert "shop/pricing.py:52" not in section


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_what_is_typed_or_compared_is_not_cut_on_any_terminal(day, sources, monkeypatch, columns):
    out = io.StringIO()
    monkeypatch.setattr(report, "Terminal", lambda stream, color: _terminal.Terminal(stream, color, columns))
    assert report.main([str(day), "--source-root", str(sources)], out) == 0
    lines = out.getvalue().splitlines()
    assert all(len(line) <= columns for line in lines)
    assert any(re.search("; see --task [0-9a-f]{8}$|^ +see --task [0-9a-f]{8}$", line) for line in lines)
    assert any(line.endswith("of the difference is") for line in lines)


def test_a_route_of_usual_length_is_whole_on_a_narrow_terminal(tmp_path, monkeypatch):
    script = build.Script(route="/item/<int:number>", phases={"app": 0.1, "client": 0.2}).run(build.SERVER + build.HOME, 0.1)
    out, path = io.StringIO(), build.write(tmp_path / "one.jsonl", [script.record()])
    monkeypatch.setattr(report, "Terminal", lambda stream, color: _terminal.Terminal(stream, color, 80))
    report.main([str(path)], out)
    assert [line.startswith("  GET /item/<int:number> ") for line in out.getvalue().splitlines()].count(True) == 2


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("arguments", [[], ["--task", "00000000"]])
def test_a_long_route_makes_no_line_wider_than_the_terminal(tmp_path, monkeypatch, columns, arguments):
    script = build.Script(route="/shop/<name>" * 9, status=200).run(build.SERVER + build.HOME, 0.1)
    out, path = io.StringIO(), build.write(tmp_path / "one.jsonl", [script.record()])
    monkeypatch.setattr(report, "Terminal", lambda stream, color: _terminal.Terminal(stream, color, columns))
    report.main([str(path), *arguments], out)
    assert [line for line in out.getvalue().splitlines() if len(line) > columns] == []


def test_of_actions_that_only_waited_no_line_has_the_cpu(tmp_path, show):
    record = build.Script().run(build.SERVER + build.HOME, 0.1, cpu=0).record()
    status, text, _ = show(build.write(tmp_path / "waits.jsonl", [record]), "--sort", "cpu")
    assert status == 0 and "no sample met a line on a CPU" in text and "of the CPU" not in text and "most CPU " in text


def test_the_last_lines_say_the_answer_once_more(day, sources, show):
    *_, title, hottest, slow, command = show(day, "--source-root", sources)[1].splitlines()
    assert title == "IN SHORT"
    assert re.fullmatch(r"  25\.6% of the time +shop/pricing\.py:52 price  return base \* factor", hottest)
    assert re.fullmatch(r"  slow GET /cart +shop/pricing\.py:44 check_voucher  if not re\.match.*", slow)
    assert re.fullmatch(r"  the slowest action +profilomatic report day\.jsonl --task 00000011", command)


def test_a_long_source_line_begins_further_left_rather_than_being_cut(tmp_path, show):
    source = 'detail = connection.execute("select price from item where name = ?", (row[1],)).fetchone()'
    (tmp_path / "shop.py").write_text(source + "\n")
    script = build.Script().run([build.frame(str(tmp_path / "shop.py"), "search", 1)], 0.1)
    build.write(tmp_path / "one.jsonl", [script.record()])
    assert "\n" + " " * 9 + source + "\n" in show(tmp_path / "one.jsonl")[1]


def test_sources_that_changed_since_are_named(tmp_path, show):
    shop = tmp_path / "shop.py"
    shop.write_text("work()\n")
    day = build.write(tmp_path / "one.jsonl", [build.Script().run([build.frame(str(shop), "search", 1)], 0.1).record()])
    task = ["--task", "00000000"]
    started = build.EPOCH.timestamp()
    # One that changed between two actions has moved lines as well.
    for moment, told in ((started + 1, True), (started + 0.05, True), (started - 1, False)):
        os.utime(shop, (moment, moment))
        for arguments in ([], task, ["--bottom-up"]):
            out = show(day, *arguments)[1]
            assert "work()" in out and out.endswith("/shop.py\n") == ("may have moved: " in out) == told, out
            assert json.loads(show(day, *arguments, "--json")[1])["changed_sources"] == ([str(shop)] if told else [])
        assert "may have moved" not in show(day, "--no-source")[1] + show(day, "--source-root", tmp_path)[1]
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        assert ("may have moved" in show(day, "--source-root", elsewhere)[1]) == told


def test_an_archive_that_changed_since_is_named_as_a_file_is(tmp_path, show):
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("shop.py", "work()\n")
    day = build.write(tmp_path / "one.jsonl", [build.Script().run([build.frame(str(archive / "shop.py"), "search", 1)], 0.1).record()])
    for moment, told in ((build.EPOCH.timestamp() + 1, True), (build.EPOCH.timestamp() - 1, False)):
        os.utime(archive, (moment, moment))
        out = show(day)[1]
        assert "work()" in out and ("may have moved: " in out) == told, out


def test_library_lines_that_no_line_of_the_users_called_are_marked(tmp_path, show):
    pool = build.frame("/venv/lib/python3.12/site-packages/anyio/_backends/_asyncio.py", "run_sync", 7)
    build.write(tmp_path / "one.jsonl", [build.Script().run([pool], 0.1).record()])
    assert re.search(r"  anyio/_backends/_asyncio\.py:7 run_sync \(library\)$", show(tmp_path / "one.jsonl")[1], re.MULTILINE)
    assert "(library)" not in show(tmp_path / "one.jsonl", "--leaf")[1]


def test_lines_below_one_percent_are_counted_not_shown_unless_asked_for(tmp_path, show):
    script = build.Script()
    for line in range(1, 9):
        script.run([build.frame("/srv/shop.py", "work", line)], 4.0 if line < 7 else 0.02)
    build.write(tmp_path / "one.jsonl", [script.record()])
    out = show(tmp_path / "one.jsonl", "--no-source")[1]
    assert "shop.py:6" in out and "shop.py:7" not in out and "  and 2 lines below 1% each; --top 8 shows all" in out
    assert "shop.py:7" in show(tmp_path / "one.jsonl", "--top", 8)[1]


def test_guilty_line_is_the_first_hot_line(tmp_path, show):
    script = (
        build.Script("GET", "/slow")
        .run(build.SERVER + build.VOUCHER, 0.9)
        .run(build.SERVER + build.HOME, 0.1)
    )
    _, out, _ = show(build.write(tmp_path / "one.jsonl", [script.record()]), "--no-source")
    rows = out[out.index("HOTTEST LINES") :].splitlines()
    assert "pricing.py:44 check_voucher" in rows[2]
    assert "90.0%" in rows[2]


def test_time_in_libraries_belongs_to_the_line_that_called(day, sources, show):
    _, out, _ = show(day, "--source-root", sources)
    assert "shop/views.py:31 order" in out
    assert "100% in library code, mostly json/encoder.py:258" in out
    _, leaf, _ = show(day, "--source-root", sources, "--leaf")
    hot = leaf[leaf.index("HOTTEST LINES") : leaf.index("WHAT MAKES")]
    assert "json/encoder.py:258" in hot


@pytest.mark.parametrize("spent,told", [
    ([0.1, 0.6, 0.3], "mostly json/scanner.py:2"), ([0.3, 0.3, 0.4], "most in json/scanner.py:3"), ([0.05, 0.05, 0.0], None)])
def test_the_library_line_that_took_most_is_named_where_they_took_much(tmp_path, show, spent, told):
    script = build.Script().run(build.HOME, 1.0 - sum(spent) + 0.1)
    for line, seconds in enumerate(spent, 1):
        script.run([*build.HOME, ("/usr/lib/python3.12/json/scanner.py", "scan", line)], seconds)
    out = show(build.write(tmp_path / "one.jsonl", [script.record()]), "--no-source")[1]
    assert ("in library code" in out) == (told is not None)
    assert told is None or f"% in library code, {told}\n" in out


def test_a_route_tells_how_its_actions_ended(tmp_path, show):
    ends = [("succeeded", 200), ("succeeded", 503), ("failed", 500), ("failed", None), ("aborted", 200), ("lost", 200), ("lost", None)]
    records = [build.Script(outcome=outcome, status=status).run(build.HOME, 0.1).record() for outcome, status in ends]
    path = build.write(tmp_path / "seven.jsonl", records)
    (group,) = json.loads(show(path, "--json")[1])["groups"]
    assert (group["count"], group["errors"], group["aborted"], group["lost"]) == (7, 3, 1, 2)
    out = show(path, "--no-source")[1]
    header, row = out[out.index("ROUTES") :].splitlines()[1:3]
    assert header.split()[-2:] == ["errors", "aborted"] and row.split()[-2:] == ["3", "3"]


def test_of_many_processes_the_first_are_named_and_the_rest_counted(tmp_path, show):
    records = [build.Script().run(build.HOME, 0.1).record(pid=pid, source="shop") for pid in (7, 8, 9, 10, 11, 8)]
    path = build.write(tmp_path / "six.jsonl", records)
    assert show(path, "--no-source")[1].splitlines()[0].endswith(" · shop · pid 8, 7, 9 and 2 more")
    assert json.loads(show(path, "--json")[1])["head"]["pids"] == [8, 7, 9, 10, 11]


def test_own_makes_a_library_path_yours(day, show):
    _, out, _ = show(day, "--own", "json/encoder", "--no-source")
    hot = out[out.index("HOTTEST LINES") : out.index("WHAT MAKES")]
    assert "json/encoder.py:258" in hot


def test_waiting_stands_apart_from_running(day, show):
    _, out, _ = show(day, "--json", "--no-source")
    lines = {(line["function"], line["line"]): line for line in json.loads(out)["hottest_lines"]}
    home = lines["home", 20]
    assert home["waiting_time"] == pytest.approx(home["time"] * 13 / 15, rel=0.05)
    assert lines["price", 52]["waiting_time"] == pytest.approx(0, abs=1e-9)


def test_short_actions_are_not_underestimated(tmp_path, show):
    """1 000 actions of 2 ms under a period of 10 ms: a fifth is hit, and hits x period gives the 2 s that they took.

    Their measured weights add up to a fifth of the mean distance from start to sample: 0.2 s.
    """
    records = [
        build.Script("GET", "/tiny", f"{i:08x}").run(build.HOME, 0.002).record(phase=(i % 10 + 0.5) / 1000)
        for i in range(1000)
    ]
    _, out, _ = show(build.write(tmp_path / "tiny.jsonl", records), "--json", "--no-source")
    line = json.loads(out)["hottest_lines"][0]
    assert line["function"] == "home"
    assert line["time"] == pytest.approx(2.0, rel=0.01)


@pytest.mark.acceptance("W14")
def test_queue_and_client_time_stand_beside_the_applications(tmp_path, show):
    records = [
        build.Script("GET", "/feed", phases={"queue": queue, "app": 0.01, "client": 0.5}).run(build.HOME, 0.6).record()
        for queue in (0.2, 0.4)
    ]
    records.append(build.Script("GET", "/odd", phases={"queue": "long", "other": 1}).run(build.HOME, 0.1).record())
    _, out, _ = show(build.write(tmp_path / "feed.jsonl", records), "--no-source")
    header, *rows = out[out.index("PHASES") : out.index("SLOWEST")].splitlines()[1:]
    assert header.split() == ["route", "queue", "app", "first", "byte", "body", "client", "close"]
    assert [row.split() for row in rows if row] == [
        ["GET", "/feed", "300", "ms", "10.0", "ms", "-", "-", "500", "ms", "-"]
    ]


@pytest.mark.acceptance("PM9")
def test_report_says_how_many_were_not_profiled(tmp_path, show):
    records = build.shop_day()[:82]
    for record, shed in zip(records[3:], (6, 1, 7)):
        record["profiler"]["shed"] = shed
    path = build.write(tmp_path / "burst.jsonl", records)
    status, out, _ = show(path, "--no-source")
    assert status == 0
    assert "! 96 actions began, 14 not profiled (14.6%): refused over max_overhead" in out.splitlines()[:4]
    assert json.loads(show(path, "--json")[1])["head"]["shed"] == 14


def test_json_and_sums_agree_with_the_records(day, show):
    status, out, _ = show(day, "--json", "--top", "1000", "--bottom-up", "--all", "--no-source")
    assert status == 0
    data = json.loads(out)
    records = [json.loads(line) for line in day.read_text().splitlines()]
    assert data["head"]["actions"] == len(records) == sum(group["count"] for group in data["groups"])
    assert data["head"]["time"] == pytest.approx(sum(r["time"] for r in records))
    assert data["head"]["samples"] == sum(r["profiler"]["samples"] for r in records)
    hits = sum(line["hits"] for line in data["hottest_lines"])
    assert hits == sum(r["hits"] for r in records)
    assert sum(line["share"] for line in data["hottest_lines"]) == pytest.approx(1)
    assert sum(line["time"] for line in data["hottest_lines"]) == pytest.approx(data["head"]["sampled_time"])
    assert sum(row["time"] for row in data["bottom_up"]) == pytest.approx(data["head"]["sampled_time"])
    assert sum(group["cpu_share"] for group in data["groups"]) == pytest.approx(1)
    for group in data["groups"]:
        times = sorted(
            r["time"] for r in records if f"{r['action']['method']} {r['action']['route']}" == group["name"]
        )
        assert (group["p50"], group["max"]) == (times[(len(times) + 1) // 2 - 1], times[-1])
    slowest = data["slowest_actions"]
    assert [a["time"] for a in slowest] == sorted((r["time"] for r in records), reverse=True)[: len(slowest)]


def test_bottom_up_nests_callers_and_merges_across_messages(day, show):
    """The planted line lies beyond a message barrier: from the bottom it is one row all the same."""
    _, out, _ = show(day, "--json", "--bottom-up", "--no-source")
    rows = json.loads(out)["bottom_up"]
    assert [row["time"] for row in rows] == sorted((row["time"] for row in rows), reverse=True)
    loads = [row for row in rows if row["function"] == "load_cart" and row["line"] == 7]
    assert len(loads) == 1
    callers = loads[0]["callers"]
    assert [c["function"] for c in callers] == ["cart"]
    assert callers[0]["time"] == pytest.approx(loads[0]["time"])


def test_task_shows_messages_where_they_happened(day, show):
    status, out, _ = show(day, "--task", "00000011-0000-4000-8000-00000000c", "--no-source")
    assert status == 0
    graph = out[out.index("CALL GRAPH") :].splitlines()
    kinds = [line for line in graph if "pricing.py" in line]
    assert [("price" in k and "52" in k, "voucher:used" in k, "check_voucher" in k) for k in kinds] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert "code=SPRING" in out


def test_task_id_may_be_upper_case_and_unknown(day, show):
    assert show(day, "--task", "00000011-0000-4000-8000-00000000C0DE")[0] == 0
    status, out, err = show(day, "--task", "ffff")
    assert (status, out) == (1, "")
    assert "ffff" in err


def test_task_is_found_by_the_id_of_a_nested_action(tmp_path, show):
    script = build.Script("GET", "/", "aaaa0000").message("inner", task_uuid="bbbb1111").run(build.HOME, 0.02)
    path = build.write(tmp_path / "nested.jsonl", [script.record()])
    status, out, _ = show(path, "--task", "bbbb", "--no-source")
    assert status == 0
    assert "task aaaa0000" in out


def test_recursion_is_folded_and_all_unfolds_it(tmp_path, show):
    deep = build.CART + [build.own("shop/cart.py", "walk", 60)] * 40 + [build.own("shop/cart.py", "walk", 61)]
    path = build.write(tmp_path / "deep.jsonl", [build.Script("GET", "/", "d").run(deep, 0.1).record()])
    _, out, _ = show(path, "--task", "d", "--no-source")
    assert "39 calls in shop/cart.py" in out
    _, full, _ = show(path, "--task", "d", "--all", "--no-source")
    assert sum("cart.py:60 walk" in line for line in full[full.index("CALL GRAPH") :].splitlines()) == 40
    assert max(len(line) for line in full.splitlines()) <= 100


def graph_of(show, path, *arguments):
    """The rows of a call graph below the action, without their times and bars."""
    _, out, _ = show(path, "--no-source", *arguments)
    _, rows = re.split("the action .*\n", out)
    return [re.sub(r"^.{33}[ │├└]*", "", row) for row in rows.splitlines()]


def test_neighbours_that_took_next_to_nothing_are_one_row_where_they_happened(tmp_path, show):
    work = [[build.own("cart.py", "work", line)] for line in range(1, 6)]
    script = build.Script().run(work[0], 5.0).run(work[1], 0.02).run(work[2], 0.01).run(work[3], 5.0).run(work[4], 0.01)
    path = build.write(tmp_path / "one.jsonl", [script.record()])
    assert graph_of(show, path, "--task", "0") == ["app/cart.py:1 work", "⋯ 2 more places", "app/cart.py:4 work", "app/cart.py:5 work"]
    assert re.search("^ 30.0 ms       · 30.0 ms .* 2 more places$", show(path, "--task", "0", "--no-source")[1], re.MULTILINE)
    assert graph_of(show, path, "--task", "0", "--all") == [f"app/cart.py:{line} work" for line in range(1, 6)]


def test_a_message_is_shown_however_little_its_place_took(tmp_path, show):
    work = [[build.own("cart.py", "work", line)] for line in range(1, 5)]
    script = build.Script().run(work[0], 5.0).run(work[1], 0.02).message("told", stack=work[1] + work[1])
    path = build.write(tmp_path / "one.jsonl", [script.run(work[2], 0.01).run(work[3], 5.0).record()])
    assert graph_of(show, path, "--task", "0") == [
        "app/cart.py:1 work", "app/cart.py:2 work", "◆ told  at app/cart.py:2", "app/cart.py:3 work", "app/cart.py:4 work"]


def test_a_line_that_a_library_calls_back_is_not_folded_with_the_library(tmp_path, show):
    library = build.frame("/srv/venv/lib/python3.12/site-packages/flask/app.py", "call", 7)
    stack = [build.own("cart.py", "work", 1), library, build.own("cart.py", "work", 2)]
    path = build.write(tmp_path / "one.jsonl", [build.Script().run([*stack, build.own("cart.py", "load", 3)], 0.1).record()])
    assert graph_of(show, path, "--task", "0") == ["app/cart.py:1 work", "flask/app.py:7 call", "app/cart.py:2 work", "app/cart.py:3 load"]


def test_functions_of_one_file_that_call_each_other_are_no_recursion(tmp_path, show):
    stack = [build.own("cart.py", name, line) for line, name in enumerate(("show", "load", "fetch", "parse"), 1)]
    path = build.write(tmp_path / "one.jsonl", [build.Script().run(stack, 0.1).record()])
    assert graph_of(show, path, "--task", "0") == [
        "app/cart.py:1 show", "app/cart.py:2 load", "app/cart.py:3 fetch", "app/cart.py:4 parse"]


def test_json_of_a_task_has_the_nodes_of_its_record(tmp_path, show):
    record = build.shop_day(18)[-2]
    path = build.write(tmp_path / "one.jsonl", [record])
    status, out, _ = show(path, "--task", record["task_uuid"], "--json", "--no-source")
    assert status == 0 and out.endswith("}\n")
    keys = ("file", "function", "line", "time", "self_time", "cpu_time", "hits", "start_time", "end_time", "message")

    def facts(node):
        return [node.get(key) for key in keys], [facts(child) for child in node.get("children", ())]

    (task,) = json.loads(out)["tasks"]
    assert facts(task["call_graph"]) == facts(record)
    assert (task["fields"], task["profiler"]) == (record["action"], record["profiler"])


def test_a_line_from_the_bottom_begins_and_ends_with_its_first_and_last_sample(tmp_path, show):
    records = [build.Script(start=start).run(build.HOME, 0.1).record() for start in (2.0, 3.0, 1.0)]
    _, out, _ = show(build.write(tmp_path / "three.jsonl", records), "--bottom-up", "--json")
    (row,) = json.loads(out)["bottom_up"]
    assert row["start_time"] == records[2]["children"][0]["start_time"]
    assert row["end_time"] == records[1]["children"][0]["end_time"]


@pytest.mark.parametrize("method,route,name", [
    ("GET", "/cart", "GET /cart"), ("GET", "GET /cart", "GET /cart"), ("GET", "GETAWAY", "GET GETAWAY"), (None, "nightly", "nightly")])
def test_an_action_is_called_by_its_method_once_and_its_route(tmp_path, show, method, route, name):
    path = build.write(tmp_path / "one.jsonl", [build.Script(method, route).run(build.HOME, 0.1).record()])
    data = json.loads(show(path, "--json")[1])
    assert [each["name"] for each in data["groups"] + data["slowest_actions"]] == [name, name]


def test_text_is_plain_ascii_where_the_encoding_is(day, command):
    done = command(
        "-m", "profilomatic", "report", day.absolute(), "--no-source", env={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"pricing.py:44" in done.stdout


def test_report_reads_standard_input_and_survives_a_closed_pipe(day, command):
    done = command("-m", "profilomatic", "report", "-", "--no-source", stdin=day.read_bytes())
    assert done.returncode == 0
    assert b"420 actions" in done.stdout
    shell = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'profilomatic', 'report', sys.argv[1], '--json',"
        "'--top', '500'], stdout=subprocess.PIPE, stderr=subprocess.PIPE); p.stdout.read(10); p.stdout.close();"
        "print(p.stderr.read().decode()); p.wait()"
    )
    assert command("-c", shell, day.absolute()).stdout.strip() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
@pytest.mark.parametrize("arguments", ["", "--json", "--task 00000011"])
def test_an_output_that_fails_is_named_and_not_the_input(day, command, arguments):
    shell = "exec %s -m profilomatic report %s --no-source %s" % (sys.executable, day.absolute(), arguments)
    for where, why in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        script = "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])"
        done = command("-c", script, shell + where)
        assert (done.returncode, done.stderr.decode()) == (2, "profilomatic report: standard output: %s\n" % why)


def test_an_input_that_is_closed_is_named(command):
    script = "import os, sys; os.close(0); os.execv(sys.executable, [sys.executable, '-m', 'profilomatic', 'report', '-'])"
    done = command("-c", script)
    assert (done.returncode, done.stderr) == (2, b"profilomatic report: standard input: Bad file descriptor\n")


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0, "0"),
        (3.2e-5, "32 µs"),
        (0.00123, "1.23 ms"),
        (0.0123, "12.3 ms"),
        (0.123, "123 ms"),
        (0.9996, "1.00 s"),
        (1.234, "1.23 s"),
        (65.4321, "65.4 s"),
        (600, "600 s"),
        (7200, "2.0 h"),
        (1e6, "12 d"),
    ],
)
def test_durations_are_short(seconds, text):
    assert _terminal.seconds(seconds) == text
