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
