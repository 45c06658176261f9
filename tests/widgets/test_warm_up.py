"""What the first map waits for can be loaded in a thread."""

from __future__ import annotations


def test_layers_can_be_warmed_up_in_a_thread(make_napari_viewer):
    """The thread must not fail, nor leave anything in the viewer."""
    import threading

    from napari_sta.widgets._warm_up import warm_up

    viewer = make_napari_viewer(show=False)
    failures = []
    thread = threading.Thread(target=lambda: _noting(warm_up, failures))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert failures == []
    assert len(viewer.layers) == 0


def _noting(call, failures) -> None:
    try:
        call()
    except Exception as error:
        failures.append(error)
