// Thumbs: one click is kept at once; a reason, a comment and the wish for a person may follow.
import { ApiError, newId, sendFeedback } from "./api.js";
import { Component, createRef, html } from "./dom.js";
import { icons } from "./icons.js";

const REASONS = {
  down: [["wrong", "Wrong"], ["incomplete", "Incomplete"], ["wrong_source", "Source does not say so"], ["off_topic", "Not what I asked"], ["unclear", "Hard to follow"]],
  up: [["correct", "Correct"], ["complete", "Complete"], ["good_sources", "Good sources"], ["clear", "Clear"]],
};

export class Feedback extends Component {
  state = { open: false, reason: null, comment: "", talk: false, said: "", failed: "" };
  box = createRef();

  give = (value) => {
    this.setState({ open: true, reason: null, failed: "" }, () =>
      this.box.current.querySelector("form")?.scrollIntoView({ block: "nearest" }));
    this.send({ value }, "Thank you, noted.");
  };

  async send(feedback, said) {
    const { message, actions } = this.props;
    const full = { feedback_id: newId(), request_id: message.info.request_id, ...feedback };
    const before = message.feedback;
    actions.setFeedback(message, { value: feedback.value });
    try {
      await sendFeedback(full);
      this.setState({ said });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      actions.setFeedback(message, before);
      this.setState({ failed: `Your feedback was not kept: ${error.message}`, open: false });
    }
  }

  submit = (event) => {
    event.preventDefault();
    const { reason, comment, talk } = this.state;
    const value = this.props.message.feedback?.value ?? "down";
    const said = talk ? "Thank you. Somebody will see that you want to talk." : "Thank you, noted.";
    this.close(""); // it is noted once the server has it
    this.send({ value, reason, comment: comment.trim() || null, talk_to_a_person: talk }, said);
  };

  close(said = this.state.said) {
    this.setState({ open: false, said });
    this.box.current.querySelector("[aria-pressed=true]")?.focus();
  }

  render({ message }, { open, said, failed }) {
    const given = message.feedback?.value;
    const thumb = (value, label) => html`
      <button type="button" class="tool" aria-pressed=${given === value} aria-label=${label} title=${label}
        onClick=${() => this.give(value)}>${icons[value]()}</button>`;
    return html`
      <div class="feedback" ref=${this.box}>
        ${thumb("up", "Good answer")}${thumb("down", "Bad answer")}
        ${open && given && this.renderForm(given)}
        <span class=${failed ? "failure" : "said"} role="status">${failed || (open ? "" : said)}</span>
      </div>`;
  }

  renderForm(given) {
    const { reason, comment, talk } = this.state;
    const id = `feedback-${this.props.message.id}`;
    return html`
      <form class="reasons" onSubmit=${this.submit} aria-label="More about your feedback"
        onKeyDown=${(event) => event.key === "Escape" && (event.stopPropagation(), this.close())}>
        <p class="thanks">Thank you, noted. Would you like to say why?</p>
        <fieldset>
          <legend class="unseen">Reason</legend>
          ${REASONS[given].map(([code, label]) => html`
            <label key=${code} class="reason"><input type="radio" name=${id} value=${code} checked=${reason === code}
              onChange=${() => this.setState({ reason: code })} /><span>${label}</span></label>`)}
        </fieldset>
        <label class="field" for=${`${id}-comment`}>Comment (optional)</label>
        <textarea id=${`${id}-comment`} rows="2" maxlength="4000" value=${comment}
          onInput=${(event) => this.setState({ comment: event.currentTarget.value })}></textarea>
        <label class="check"><input type="checkbox" checked=${talk}
          onChange=${(event) => this.setState({ talk: event.currentTarget.checked })} /> I want to talk to a person</label>
        <div class="row">
          <button type="submit" class="primary">Send feedback</button>
          <button type="button" class="plain" onClick=${() => this.close()}>Not now</button>
        </div>
      </form>`;
  }
}
