// Says that the sign-in has ended while the page was open: what was written stays, also for after signing in.
import { signInAddress } from "./api.js";
import { Component, createRef, html } from "./dom.js";

export class SignedOutDialog extends Component {
  dialog = createRef();

  componentDidMount() {
    this.dialog.current.showModal();
  }

  // The heading has the focus at first: the Enter that sent a question must not press a button that came up under it.
  render({ onClose, onSignIn }) {
    return html`
      <dialog ref=${this.dialog} class="keys signed-out" aria-labelledby="signed-out-title" onClose=${onClose}>
        <h2 id="signed-out-title" tabindex="-1" autofocus>You are signed out</h2>
        <p>Your conversations are kept, and so is what you were writing. Sign in again to go on.</p>
        <div class="row">
          <button type="button" class="plain" onClick=${() => this.dialog.current.close()}>Not yet</button>
          <a class="primary" href=${signInAddress()} onClick=${onSignIn}>Sign in</a>
        </div>
      </dialog>`;
  }
}
