// Pages that are opened as files may not start workers; the search runs in one. Here a hidden frame stands in for it.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const base = new URL(address, document.baseURI)
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inner = frame.contentWindow
      const send = (target, data) => target.dispatchEvent(new MessageEvent("message", { data }))
      const load = (source) =>
        new Promise((resolve) => {
          const script = inner.document.createElement("script")
          script.onload = resolve
          script.src = new URL(source, base)
          inner.document.head.append(script)
        })
      inner.postMessage = (data) => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      }
      inner.importScripts = (...sources) => sources.reduce((before, one) => before.then(() => load(one)), Promise.resolve())
      const ready = load(base)
      this.postMessage = (data) => void ready.then(() => send(inner, data))
      this.terminate = () => frame.remove()
    }
  }
}
