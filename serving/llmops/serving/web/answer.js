// One answer: its text, its sources, what it was made by, and what a reader can do with it.
import { Blocks } from "./blocks.js";
import { Component, html } from "./dom.js";
import { Feedback } from "./feedback.js";
import { icons } from "./icons.js";
import { nameOf } from "./markdown.js";

export class Answer extends Component {
  state = { copied: false };

  // Finished answers stay as they are while another one streams.
  shouldComponentUpdate(next, state) {
    return next.message !== this.props.message || next.busy !== this.props.busy || state !== this.state;
  }

  copy = async () => {
    await copyText(this.props.message.content);
    this.setState({ copied: true });
    setTimeout(() => this.setState({ copied: false }), 2000);
  };

  render({ message, number, busy, actions }, { copied }) {
    const writing = message.status === "writing";
    const onCite = (citation, opener) => actions.openPassage(message, citation, opener);
    return html`
      <article class="answer" aria-labelledby=${`answer-${message.id}`} aria-busy=${writing}>
        <h2 class="unseen" id=${`answer-${message.id}`}>Answer ${number}</h2>
        <${Steps} steps=${message.steps ?? []} open=${writing && !message.content} />
        <div class="prose">
          <${Blocks} text=${message.content} citations=${message.citations} onCite=${onCite} />
          ${writing && (message.content ? html`<span class="caret" aria-hidden="true"></span>` : html`<${Thinking} />`)}
        </div>
        ${message.status === "stopped" && html`<p class="note">You stopped this answer.</p>`}
        ${message.error && html`<p class="failure" role="alert">${message.error}</p>`}
        ${!writing && html`<${Sources} citations=${message.citations} onCite=${onCite} />`}
        ${!writing && html`
          <div class="tools" role="group" aria-label=${`Actions for answer ${number}`}>
            ${message.info && message.content && html`<${Feedback} message=${message} actions=${actions} />`}
            <button type="button" class="tool" onClick=${this.copy} aria-label="Copy" title="Copy">
              ${copied ? icons.check() : icons.copy()}</button>
            <button type="button" class="tool" onClick=${() => actions.regenerate(message)} disabled=${busy}
              aria-label="Answer again" title="Answer again">${icons.again()}</button>
            <${Version} info=${message.info} />
            <span class="unseen" role="status">${copied ? "Copied" : ""}</span>
          </div>`}
      </article>`;
  }
}

const Thinking = () => html`<p class="thinking"><span></span><span></span><span></span><em class="unseen">Reading the documents</em></p>`;

/** The searches on the way: shown while nothing else is there to read, folded away after that. */
function Steps({ steps, open }) {
  if (!steps.length) return null;
  return html`
    <details class="steps" open=${open}>
      <summary>${steps.length === 1 ? "Searched once" : `Searched ${steps.length} times`}</summary>
      <ol>${steps.map((s) => html`
        <li key=${s.number}><q>${s.query}</q>${s.filters && html` in ${filterWords(s.filters)}`}${" "}
          <span class="count">${s.passages} ${s.passages === 1 ? "passage" : "passages"}</span></li>`)}
      </ol>
    </details>`;
}

/** Filters that were read out of the question, as a reader says them. */
function filterWords(filters) {
  const word = (value) => Array.isArray(value) ? value.join(" or ")
    : typeof value === "object" ? [value.from && `from ${value.from}`, value.to && `to ${value.to}`].filter(Boolean).join(" ")
    : String(value);
  return Object.entries(filters).map(([name, value]) => `${name} ${word(value)}`).join(", ");
}

function Sources({ citations, onCite }) {
  if (!citations.length) return null;
  return html`
    <ol class="sources" aria-label="Sources">
      ${citations.map((c) => html`
        <li key=${c.number}><button type="button" onClick=${(event) => onCite(c, event.currentTarget)}>
          <span class="number">${c.number}</span><span class="name">${nameOf(c)}</span></button></li>`)}
    </ol>`;
}

function Version({ info }) {
  if (!info) return null;
  const index = info.index_seq == null ? "" : ` · index ${info.index_seq}`;
  const how = info.quoted ? " · quoted, no language model" : "";
  const title = `Request ${info.request_id}${info.generation ? `, index generation ${info.generation}` : ""}`;
  return html`<span class="version" title=${title}>${info.asset} v${info.version}${index}${how}</span>`;
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // the clipboard API is missing over plain http
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
