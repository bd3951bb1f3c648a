// Where a question is written. Enter sends, Shift+Enter breaks the line; while an answer is written, the button stops it.
import { Component, createRef, html } from "./dom.js";
import { icons } from "./icons.js";

export class Composer extends Component {
  state = { text: "" };
  area = createRef();

  componentDidMount() {
    this.props.handle.current = this; // Preact 11 gives components no ref of their own
    this.focus();
  }

  focus() {
    this.area.current.focus();
  }

  get text() {
    return this.state.text;
  }

  fill(text) {
    this.setState({ text }, () => this.fit());
  }

  fit() {
    const area = this.area.current;
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, 240)}px`;
  }

  onInput = (event) => this.setState({ text: event.currentTarget.value }, () => this.fit());

  onKey = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.send(event);
    if (event.key === "Escape" && this.props.busy) this.props.onStop();
  };

  send = (event) => {
    event.preventDefault();
    const { busy, limit, onSend } = this.props;
    const text = this.state.text.trim();
    if (busy || !text || text.length > limit) return;
    onSend(text);
    this.setState({ text: "" }, () => this.fit());
  };

  render({ busy, inert, limit, onStop }, { text }) {
    const over = text.length - limit;
    return html`
      <form class="composer" inert=${inert} onSubmit=${this.send}>
        <div class="box">
          <label class="unseen" for="question">Your question</label>
          <textarea id="question" ref=${this.area} rows="1" placeholder="Ask about the documents" value=${text}
            onInput=${this.onInput} onKeyDown=${this.onKey} aria-describedby="hint"></textarea>
          ${busy
            ? html`<button key="stop" type="button" class="go" onClick=${onStop} aria-label="Stop" title="Stop">${icons.stop()}</button>`
            : html`<button key="send" type="submit" class="go" disabled=${!text.trim() || over > 0} aria-label="Send" title="Send">${icons.send()}</button>`}
        </div>
        <p class=${over > 0 ? "hint failure" : "hint"} id="hint" role=${over > 0 ? "alert" : null}>
          ${over > 0 ? `The question is ${over.toLocaleString()} characters too long.` : "Open a source to check an answer."}
        </p>
      </form>`;
  }
}
