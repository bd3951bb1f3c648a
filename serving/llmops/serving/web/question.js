// One question, and its editor: sending an edited question drops what followed it.
import { Component, createRef, html } from "./dom.js";
import { icons } from "./icons.js";

export class Question extends Component {
  state = { editing: false, draft: "" };
  area = createRef();
  button = createRef();

  shouldComponentUpdate(next, state) {
    return next.message !== this.props.message || next.busy !== this.props.busy || state !== this.state;
  }

  begin = () => {
    this.setState({ editing: true, draft: this.props.message.content }, () => {
      this.area.current.focus();
      this.area.current.setSelectionRange(-1, -1);
    });
  };

  end = () => this.setState({ editing: false }, () => this.button.current?.focus());

  send = (event) => {
    event?.preventDefault();
    if (!this.state.draft.trim()) return;
    this.setState({ editing: false });
    this.props.actions.resend(this.props.message, this.state.draft);
  };

  onKey = (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.end();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      this.send(event);
    }
  };

  render({ message, number, busy }, { editing, draft }) {
    if (editing) {
      return html`
        <form class="question editing" onSubmit=${this.send} aria-label=${`Edit question ${number}`}>
          <textarea ref=${this.area} rows="3" aria-label="Question" value=${draft} onKeyDown=${this.onKey}
            onInput=${(event) => this.setState({ draft: event.currentTarget.value })}></textarea>
          <div class="row">
            <button type="submit" class="primary" disabled=${!draft.trim()}>Send</button>
            <button type="button" class="plain" onClick=${this.end}>Cancel</button>
          </div>
        </form>`;
    }
    return html`
      <section class="question" aria-label=${`Question ${number}`}>
        <p class="bubble">${message.content}</p>
        <button ref=${this.button} type="button" class="tool" onClick=${this.begin} disabled=${busy}
          aria-label="Edit and ask again" title="Edit and ask again">${icons.edit()}</button>
      </section>`;
  }
}
