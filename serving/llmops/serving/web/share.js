// A link to a conversation: made on purpose, to what has been said so far, and ended at will.
import { ApiError, kept } from "./api.js";
import { Component, createRef, html } from "./dom.js";
import { icons } from "./icons.js";

export class ShareButton extends Component {
  state = { link: "", failed: "", copied: false };
  dialog = createRef();
  field = createRef();

  open = () => {
    this.setState({ link: "", failed: "", copied: false });
    this.dialog.current.showModal();
  };

  async attempt(work) {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.setState({ failed: error.message });
    }
  }

  make = () => this.attempt(async () => {
    const { path } = await kept.share(this.props.conversation.id);
    this.props.onShared(Date());
    this.setState({ link: new URL(path, location.href).href, failed: "" }, () => this.field.current.select());
  });

  end = () => this.attempt(async () => {
    await kept.unshare(this.props.conversation.id);
    this.props.onShared(null);
    this.dialog.current.close();
  });

  copy = async () => {
    this.field.current.select();
    if (navigator.clipboard) await navigator.clipboard.writeText(this.state.link);
    else document.execCommand("copy"); // the clipboard API is missing over plain http
    this.setState({ copied: true });
  };

  render({ conversation, inert }, { link, failed, copied }) {
    return html`
      <button type="button" class="tool" inert=${inert} onClick=${this.open} aria-label="Share this conversation" title="Share"
        aria-haspopup="dialog">${icons.share()}</button>
      <dialog ref=${this.dialog} class="keys share" aria-labelledby="share-title">
        <h2 id="share-title">Share this conversation</h2>
        <p>A link shows what has been said so far, without your name. It opens for people who are signed in here and may read
          every document the answers rest on.</p>
        ${link && html`
          <label class="field" for="share-link">Link, shown this once</label>
          <div class="row"><input id="share-link" ref=${this.field} readonly value=${link} />
            <button type="button" class="plain" onClick=${this.copy}>${copied ? "Copied" : "Copy"}</button></div>`}
        ${!link && conversation.shared && html`<p class="note">There is a link already; a new one ends it.</p>`}
        ${failed && html`<p class="failure" role="alert">${failed}</p>`}
        <div class="row">
          ${conversation.shared && html`<button type="button" class="plain" onClick=${this.end}>End the link</button>`}
          <button type="button" class="plain" onClick=${() => this.dialog.current.close()}>Close</button>
          ${!link && html`<button type="button" class="primary" onClick=${this.make}>Make a link</button>`}
        </div>
      </dialog>`;
  }
}
