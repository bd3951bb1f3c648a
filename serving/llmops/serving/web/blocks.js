// The blocks of one answer. A finished block keeps its DOM; while the answer streams only the last one is made anew.
import { Component, createRef, html } from "./dom.js";
import { renderBlock, splitBlocks, topHeadingOf } from "./markdown.js";

class Block extends Component {
  element = createRef();

  shouldComponentUpdate(next) {
    return next.raw !== this.props.raw || next.top !== this.props.top || cited(next) !== cited(this.props);
  }

  componentDidMount() {
    this.fill();
  }

  componentDidUpdate() {
    this.fill();
  }

  fill() {
    this.element.current.replaceChildren(renderBlock(this.props));
  }

  render() {
    return html`<div class="block" ref=${this.element}></div>`;
  }
}

// Which of the block's markers have their citation: one that arrives late changes the block.
function cited({ raw, citations }) {
  return citations.map((c) => c.number).filter((n) => raw.includes(`[${n}]`)).join();
}

export class Blocks extends Component {
  frozen = []; // finished blocks, as text
  frozenChars = 0;

  blocks() {
    const { text } = this.props;
    if (this.frozenChars > text.length) [this.frozen, this.frozenChars] = [[], 0];
    const open = splitBlocks(text.slice(this.frozenChars));
    for (const raw of open.slice(0, -1)) {
      this.frozen.push(raw);
      this.frozenChars = text.indexOf(raw, this.frozenChars) + raw.length;
    }
    return [...this.frozen, ...open.slice(-1)];
  }

  render({ text, citations, onCite }) {
    const top = topHeadingOf(text);
    return this.blocks().map((raw, i) =>
      html`<${Block} key=${i} raw=${raw} top=${top} citations=${citations} onCite=${onCite} />`);
  }
}
