from crystaljax.system import workers


def test_order_is_kept_in_one_process_and_in_several():
    for num_workers in (1, 2):
        found = workers.map_in_workers(abs, [-1, 2, -3], num_workers=num_workers)
        assert list(found) == [1, 2, 3]


def test_progress_is_shown_for_what_has_a_label(capsys):
    items = iter([1, 2])
    assert list(workers.with_progress(items, None, 2)) == [1, 2]
    assert capsys.readouterr().err == ""
    assert list(workers.with_progress([3], "count", 1)) == [3]
    assert "count: 100%" in capsys.readouterr().err


def test_little_work_is_done_in_one_process(monkeypatch):
    monkeypatch.setattr(workers, "default_num_workers", lambda: 8)
    assert workers.choose_num_workers(None, 10, 0.001) == 1
    assert workers.choose_num_workers(None, 100_000, 0.001) == 8
    # Whatever there is to do, the user decides.
    assert workers.choose_num_workers(3, 1, 0.001) == 3
    assert workers.choose_num_workers(1, 100_000, 0.001) == 1
    assert workers.choose_num_workers(0, 1, 0.001) == 8
