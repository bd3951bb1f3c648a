// Asks for a program key where the server needs one. The key stays in this tab's session storage.
import { setKey } from "./api.js";
import { Component, createRef, html } from "./dom.js";

export class KeyDialog extends Component {
  dialog = createRef();
  field = createRef();

  componentDidMount() {
    this.dialog.current.showModal();
    this.field.current.focus();
  }

  submit = (event) => {
    event.preventDefault();
    const key = this.field.current.value.trim();
    if (!key) return;
    setKey(key);
    this.props.onKey();
  };

  render({ refused }) {
    return html`
      <dialog ref=${this.dialog} class="keys" aria-labelledby="key-title" onCancel=${(event) => event.preventDefault()}>
        <form onSubmit=${this.submit}>
          <h2 id="key-title">This chat needs a key</h2>
          <p>Ask whoever runs this server for one; it begins with <code>lk_</code>. It is kept until you close this tab.</p>
          <label class="field" for="key">Key</label>
          <input id="key" ref=${this.field} type="password" autocomplete="off" spellcheck="false"
            aria-invalid=${refused ? "true" : null} aria-describedby=${refused ? "key-refused" : null} />
          ${refused && html`<p class="failure" id="key-refused" role="alert">${refused}</p>`}
          <div class="row"><button type="submit" class="primary">Open the chat</button></div>
        </form>
      </dialog>`;
  }
}
