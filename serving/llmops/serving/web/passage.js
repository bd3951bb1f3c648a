// The panel that shows a cited passage where it stands: file, page, and the cited words marked.
import { Component, createRef, html } from "./dom.js";
import { flowing } from "./flow.js";
import { icons } from "./icons.js";

export class PassagePanel extends Component {
  heading = createRef();
  mark = createRef();

  componentDidMount() {
    this.heading.current.focus();
    this.reveal();
  }

  componentDidUpdate(before) {
    if (before.citation !== this.props.citation) this.heading.current.focus();
    if (before.view !== this.props.view) this.reveal();
  }

  reveal() {
    this.mark.current?.scrollIntoView({ block: "center" });
  }

  render({ citation, view, failure, onClose }) {
    const page = view?.page ?? citation.page;
    const text = view && flowing(view.text);
    return html`
      <aside class="panel" aria-labelledby="passage-title">
        <header>
          <div>
            <p class="where">Source ${citation.number}${page == null ? "" : ` · page ${page}`}</p>
            <h2 id="passage-title" tabindex="-1" ref=${this.heading}>${view?.title || citation.title || citation.uri}</h2>
            <p class="uri">${citation.uri}</p>
          </div>
          <button type="button" class="tool" onClick=${onClose} aria-label="Close the source" title="Close (Esc)">${icons.close()}</button>
        </header>
        <div class="text" tabindex="0" role="region" aria-label="Text of the source">
          ${failure && html`<p class="failure" role="alert">${failure}</p>`}
          ${!view && !failure && html`<p class="note" role="status">Opening the source…</p>`}
          ${view && html`<p>${text.slice(0, view.highlight_start)}<mark ref=${this.mark}>${
            text.slice(view.highlight_start, view.highlight_end)}</mark>${text.slice(view.highlight_end)}</p>`}
        </div>
      </aside>`;
  }
}
