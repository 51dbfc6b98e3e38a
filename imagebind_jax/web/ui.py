"""The page itself: two tabs of gradio components, and what happens when they are used."""

import html
import importlib.resources
from typing import Any

from imagebind_jax.search.store import EmbeddingStore
from imagebind_jax.web import limits, views
from imagebind_jax.web.handlers import DISPLAY_MODES, MODALITY_CHOICES, CompareState, PageHandlers

EXAMPLE_SENTENCES = ("a dog barking", "waves on a beach", "a train passes by", "a wooden table")


def build_ui(page: PageHandlers) -> Any:
    """The gradio Blocks of a page."""
    import gradio as gr

    store = page.store
    with gr.Blocks(
        title="imagebind_jax", analytics_enabled=False, delete_cache=(60, 600), fill_width=True
    ) as made:
        gr.HTML(_head(page), apply_default_css=False)
        with gr.Tabs():
            if store is not None and len(store):
                with gr.Tab("Search", id="search"):
                    _search(gr, page, store)
            with gr.Tab("Compare", id="compare"):
                _compare(gr, page)
    made.queue(
        max_size=limits.MAX_QUEUE, default_concurrency_limit=limits.MAX_CONCURRENCY, api_open=False
    )
    return made


PRIVATE = {
    "api_visibility": "private",
    "concurrency_id": "page",
    "concurrency_limit": limits.MAX_CONCURRENCY,
}


def _head(page: PageHandlers) -> str:
    senses = ", ".join(views.NAMES.get(m, m) for m in page.reader.modalities)
    there = f"; a store of {page.store.count:,} things to search in" if page.store else ""
    return (
        f'<header class="ib-head"><h1>One space for all senses</h1><p>{html.escape(senses)}: each file and '
        f"each sentence is a point of one sphere{there}. Files stay on this machine, and are deleted "
        "once they are read.</p></header>"
    )


def _kind(gr: Any, page: PageHandlers, name: str) -> Any:
    """What no content tells."""
    names = [name for name, m in MODALITY_CHOICES.items() if not m or m in page.reader.modalities]
    return gr.Dropdown(names, value=names[0], label="The next files are", elem_id=name)


def _compare(gr: Any, page: PageHandlers) -> None:
    state = gr.State(CompareState(), time_to_live=3600)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            drop = gr.File(
                label="Files of any modality", file_count="multiple", height=118, elem_id="compare-files",
                elem_classes="ib-drop",
            )  # fmt: skip
            with gr.Accordion("Depth and thermal images", open=False):
                kind = _kind(gr, page, "compare-kind")
            words = gr.Textbox(
                label="Sentences, one a line", lines=4, max_lines=12, elem_id="compare-words",
                placeholder="\n".join(_sentences(page)[:3]), visible="text" in page.reader.modalities,
            )  # fmt: skip
            chosen = gr.CheckboxGroup(
                [], label="Compared files", visible=False, elem_id="compare-chosen"
            )
            view = gr.Radio(
                list(DISPLAY_MODES), value=DISPLAY_MODES[0], label="Show", elem_id="compare-view"
            )
            temperature = gr.Slider(
                0.01, 0.5, value=0.05, step=0.01, label="Temperature of the softmax",
                visible=False, elem_id="compare-temperature",
            )  # fmt: skip
            with gr.Row():
                clear = gr.Button("Start over", min_width=90, elem_id="compare-clear")
                button = gr.Button("Compare", variant="primary", min_width=90, elem_id="compare-go")
        with gr.Column(scale=5, min_width=420):
            notes = gr.HTML(apply_default_css=False, elem_id="compare-notes")
            shown = gr.HTML(
                views.similarity_matrix_html([]), apply_default_css=False, elem_id="compare-matrix"
            )
    asked = [chosen, words, view, temperature]

    def dropped(paths, kind, state, chosen, words, view, temperature):
        before = len(state.files)
        state, problems = page.add(paths, kind, state)
        chosen = [*(chosen or []), *range(before, len(state.files))]
        matrix, more = page.compare(state, chosen, words or "", view, temperature)
        names = [(thing.name, i) for i, thing in enumerate(state.files)]
        group = gr.CheckboxGroup(names, value=chosen, visible=bool(names))
        return None, state, group, matrix, views.problems_html([*problems, *more])

    def compared(state, chosen, words, view, temperature):
        matrix, problems = page.compare(state, chosen or [], words or "", view, temperature)
        return (
            state,
            matrix,
            views.problems_html(problems),
            gr.Slider(visible=view == DISPLAY_MODES[1]),
        )

    drop.upload(
        dropped, [drop, kind, state, *asked], [drop, state, chosen, shown, notes],
        show_progress_on=[shown], **PRIVATE,
    )  # fmt: skip
    gr.on(
        [button.click, view.change, temperature.release, chosen.input], compared, [state, *asked],
        [state, shown, notes, temperature], show_progress_on=[shown], **PRIVATE,
    )  # fmt: skip
    clear.click(
        lambda: (None, CompareState(), gr.CheckboxGroup([], value=[], visible=False), "", views.similarity_matrix_html([]), ""),
        None, [drop, state, chosen, words, shown, notes], **PRIVATE,
    )  # fmt: skip


def _search(gr: Any, page: PageHandlers, store: EmbeddingStore) -> None:
    speaks = "text" in page.reader.modalities
    states, words, files, chips = [], [], [], []
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=290):
            for name, label in (("a", "What to look for"), ("b", "Mix with (optional)")):
                with gr.Group():
                    states.append(gr.State(None, time_to_live=3600))
                    words.append(
                        gr.Textbox(
                            label=label, placeholder="in words, or by a file", visible=speaks, max_lines=1,
                            elem_id=f"search-words-{name}",
                        )
                    )  # fmt: skip
                    files.append(
                        gr.File(show_label=False, height=66, elem_id=f"search-file-{name}", elem_classes="ib-drop")
                    )  # fmt: skip
                    chips.append(gr.HTML(apply_default_css=False, elem_classes="ib-chips"))
            mix = gr.Slider(
                0.0, 1.0, value=0.5, step=0.05, label="Share of the second", elem_id="search-mix",
                buttons=[],
            )  # fmt: skip
            button = gr.Button("Search", variant="primary", elem_id="search-go")
            if speaks:
                gr.Examples([[each] for each in _sentences(page)], [words[0]], label="For example")
            with gr.Accordion("Depth and thermal images", open=False):
                kind = _kind(gr, page, "search-kind")
        with gr.Column(scale=5, min_width=420):
            with gr.Row(equal_height=True):
                only = gr.CheckboxGroup(
                    [(views.NAMES.get(m, m), m) for m in store.note.modalities], label="Find only (none ticked: all)",
                    elem_id="search-only", scale=3,
                )  # fmt: skip
                k = gr.Slider(
                    1,
                    48,
                    value=12,
                    step=1,
                    label="How many",
                    elem_id="search-k",
                    buttons=[],
                    min_width=150,
                )
            notes = gr.HTML(apply_default_css=False, elem_id="search-notes")
            shown = gr.HTML(
                views.format_empty_results(), apply_default_css=False, elem_id="search-found"
            )
    asked = [*words, *states, mix, only, k]

    def searched(a, b, file_a, file_b, mix, only, k):
        # Whoever writes words after dropping a file asks with the words.
        a, b = a or "", b or ""
        file_a, file_b = None if a.strip() else file_a, None if b.strip() else file_b
        found, problems = page.search([(a, file_a), (b, file_b)], mix, only or [], k)
        chips = [views.query_chip_html(file) for file in (file_a, file_b)]
        return found, views.problems_html(problems), file_a, file_b, *chips

    def dropped(which):
        def take(path, kind, *asked):
            thing, problems = page.query(path, kind)
            given = list(asked)
            given[2 + which] = thing
            if thing is not None:
                given[which] = ""
            found, more, *rest = searched(*given)
            return None, given[which], found, views.problems_html(problems) + more, *rest

        return take

    out = [shown, notes, *states, *chips]
    gr.on(
        [button.click, *(each.submit for each in words), mix.release, only.input, k.release],
        searched, asked, out, show_progress_on=[shown], **PRIVATE,
    )  # fmt: skip
    for which in range(2):
        files[which].upload(
            dropped(which), [files[which], kind, *asked], [files[which], words[which], *out],
            show_progress_on=[shown], **PRIVATE,
        )  # fmt: skip


def _sentences(page: PageHandlers) -> list[str]:
    """Examples: of the store's own where it has some, as they fit what the checkpoint knows."""
    store, found = page.store, []
    if store is not None and "text" in store.note.modalities:
        number = store.note.modalities.index("text")
        for row in (store.rows["modality"] == number).nonzero()[0][:200].tolist():
            text = str(store.item(row).get("text", ""))
            if 0 < len(text) <= 45 and text not in found:
                found.append(text)
    step = max(len(found) // 4, 1)
    return (found[::step][:4] if found else []) + list(EXAMPLE_SENTENCES)[: max(4 - len(found), 0)]


def load_css() -> str:
    """The page's style sheet."""
    return importlib.resources.files(__package__).joinpath("page.css").read_text("utf-8")
