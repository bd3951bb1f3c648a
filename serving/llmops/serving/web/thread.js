// The open conversation, or the welcome where there is none. It follows an answer as it grows, unless the reader scrolls up.
import { Answer } from "./answer.js";
import { Component, createRef, html } from "./dom.js";
import { Question } from "./question.js";

export class Thread extends Component {
  box = createRef();
  following = true;

  componentDidMount() {
    this.props.handle.current = this;
  }

  toEnd() {
    this.following = true;
    this.box.current.scrollTop = this.box.current.scrollHeight;
  }

  onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = this.box.current;
    this.following = scrollHeight - scrollTop - clientHeight < 48;
  };

  componentDidUpdate(before) {
    if (this.following && (this.props.busy || before.busy)) this.box.current.scrollTop = this.box.current.scrollHeight;
  }

  render({ conversation, busy, actions, inert, title, suggestions }) {
    const opening = conversation?.messages === null;
    const messages = conversation?.messages ?? [];
    return html`
      <div class="thread" ref=${this.box} inert=${inert} onScroll=${this.onScroll} tabindex="0" role="region" aria-label="Conversation">
        <div class="column" key=${conversation?.id ?? "welcome"}>
          ${opening && html`<p class="note" role="status">Opening the conversation…</p>`}
          ${!opening && messages.length === 0 && html`<${Welcome} title=${title} suggestions=${suggestions} onAsk=${actions.ask} />`}
          ${messages.map((message, i) => {
            const number = Math.floor(i / 2) + 1;
            const Kind = message.role === "user" ? Question : Answer;
            return html`<${Kind} key=${message.id} message=${message} number=${number} busy=${busy} actions=${actions} />`;
          })}
        </div>
      </div>`;
  }
}

function Welcome({ title, suggestions, onAsk }) {
  return html`
    <section class="welcome" aria-label="Welcome">
      <p class="greeting">${title}</p>
      <p class="lead">Every answer shows where it stands in the documents.</p>
      ${suggestions.length > 0 && html`
        <ul class="suggestions" aria-label="Suggested questions">
          ${suggestions.map((question) => html`<li key=${question}><button type="button" onClick=${() => onAsk(question)}>${question}</button></li>`)}
        </ul>`}
    </section>`;
}
