// The reader's conversations: open, rename, delete, begin a new one; and the theme.
import { Component, createRef, html } from "./dom.js";
import { groupByAge } from "./history.js";
import { icons } from "./icons.js";

class Entry extends Component {
  state = { renaming: false };
  field = createRef();
  button = createRef();

  rename = () => this.setState({ renaming: true }, () => this.field.current.select());

  finish = (keep) => {
    if (!this.state.renaming) return;
    const title = this.field.current.value.trim();
    this.setState({ renaming: false }, () => this.button.current?.focus());
    if (keep && title) this.props.actions.rename(this.props.conversation, title);
  };

  onKey = (event) => {
    if (event.key === "Enter") {
      event.preventDefault(); // the focus moves to a button, which would take the key as its own
      this.finish(true);
    }
    if (event.key === "Escape") {
      event.stopPropagation();
      this.finish(false);
    }
  };

  render({ conversation, current, actions }, { renaming }) {
    const { title } = conversation;
    if (renaming) {
      return html`<li class="entry"><input ref=${this.field} defaultValue=${title} aria-label="Name of the conversation"
        maxlength="120" onKeyDown=${this.onKey} onBlur=${() => this.finish(true)} /></li>`;
    }
    return html`
      <li class=${current ? "entry current" : "entry"}>
        <button type="button" class="open" aria-current=${current ? "page" : null} title=${title}
          onClick=${() => actions.open(conversation)}>${title}</button>
        <button ref=${this.button} type="button" class="tool" onClick=${this.rename} aria-label=${`Rename ${title}`} title="Rename">${icons.rename()}</button>
        <button type="button" class="tool" onClick=${() => actions.remove(conversation)} aria-label=${`Delete ${title}`} title="Delete">${icons.trash()}</button>
      </li>`;
  }
}

const THEMES = { auto: ["light", "Theme: as the system"], light: ["dark", "Theme: light"], dark: ["auto", "Theme: dark"] };
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

export class ThemeButton extends Component {
  state = { theme: document.documentElement.dataset.theme ?? "auto" };

  turn = () => {
    const [theme] = THEMES[this.state.theme];
    if (theme === "auto") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("llmops.theme");
    } else {
      document.documentElement.dataset.theme = theme;
      localStorage.setItem("llmops.theme", theme);
    }
    this.setState({ theme });
  };

  render({ inert }, { theme }) {
    const label = THEMES[theme][1];
    return html`<button type="button" class="tool theme" inert=${inert} onClick=${this.turn} aria-label=${label} title=${label}>${icons[THEME_ICONS[theme]]()}</button>`;
  }
}

export function Sidebar({ conversations, currentId, actions, drawer, registry }) {
  return html`
    <nav class="sidebar" id="sidebar" aria-label="Conversations" inert=${drawer === "shut"}>
      <div class="bar">
        <button type="button" class="new" onClick=${actions.begin}>${icons.plus()} New chat</button>
        <button type="button" class="tool only-narrow" onClick=${actions.toggleDrawer} aria-label="Close the list">${icons.close()}</button>
      </div>
      <div class="scroll">
        ${groupByAge(conversations).map(([name, list]) => html`
          <section key=${name} aria-label=${name}>
            <p class="age">${name}</p>
            <ul>${list.map((c) => html`<${Entry} key=${c.id} conversation=${c} current=${c.id === currentId} actions=${actions} />`)}</ul>
          </section>`)}
        ${conversations.length === 0 && html`<p class="age">Your conversations will be listed here. They stay in this browser.</p>`}
      </div>
      ${registry && html`<p class="next-door"><a href=${registry}>Registry</a></p>`}
    </nav>`;
}
