// Keeps a page up to date without reloading it. Everything works without this file, only less lively.
//   [data-live=URL]     is asked for at once, then every data-every ms, slower while nothing changes, until it contains [data-done]
//   time[data-tick]     counts on by itself: "relative" (3 min ago) or "elapsed" (3 min)
//   form[data-once]     cannot be sent twice by a double click
//   [data-address=URL]  is where a reload leads, in place of sending the form again
//   [data-copy=ID]      copies the value of a field
(() => {
  "use strict";
  if (window.htmx) htmx.config.includeIndicatorStyles = false; // they stand in theme.css: a page has no inline style
  const SLOWEST = 4000;

  function replace(part, html) {
    const open = [...part.querySelectorAll("details[id][open]")].map((one) => one.id);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = html;
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    if (focused) document.getElementById(focused)?.focus();
    tick();
  }

  function keepFresh(part) {
    const fastest = Number(part.dataset.every);
    let every = fastest;
    let etag = part.dataset.etag;

    async function refresh() {
      try {
        const answer = document.hidden ? null
          : await fetch(part.dataset.live, { headers: { "If-None-Match": etag }, cache: "no-store", redirect: "error" });
        if (answer?.ok) {
          etag = answer.headers.get("ETag");
          replace(part, await answer.text());
        } else if (answer && answer.status !== 304) {
          return;
        }
        every = answer?.ok ? fastest : Math.min(every * 1.1, SLOWEST);
      } catch {
        every = SLOWEST;
      }
      schedule();
    }

    function schedule() {
      if (!part.querySelector("[data-done]")) setTimeout(refresh, every);
    }
    if (!part.querySelector("[data-done]")) refresh(); // at once: much may have happened while the page was on its way
  }

  function duration(seconds) {
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    for (const [size, unit, smaller, rest] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
      if (seconds < size) continue;
      const left = Math.floor((seconds % size) / smaller);
      return `${Math.floor(seconds / size)} ${unit}${left ? ` ${left} ${rest}` : ""}`;
    }
  }

  function relative(seconds) {
    const size = Math.abs(seconds);
    if (size < 1) return "just now";
    const length = duration(size < 3600 && size >= 60 ? size - (size % 60) : size);
    return seconds > 0 ? `${length} ago` : `in ${length}`;
  }

  function tick() {
    for (const time of document.querySelectorAll("time[data-tick]")) {
      const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
      const text = time.dataset.tick === "elapsed" ? duration(Math.max(0, seconds)) : relative(seconds);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function guard(form) {
    const buttons = [...form.querySelectorAll("button")];
    form.addEventListener("submit", () => setTimeout(() => buttons.forEach((one) => (one.disabled = true))));
    addEventListener("pageshow", () => buttons.forEach((one) => (one.disabled = false)));
  }

  addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("[data-live]").forEach(keepFresh);
    document.querySelectorAll("form[data-once]").forEach(guard);
    document.querySelectorAll("[data-address]").forEach((one) => history.replaceState(null, "", one.dataset.address));
    document.querySelectorAll("[data-copy]").forEach((button) => {
      button.hidden = !navigator.clipboard;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
        button.textContent = "Copied";
      });
    });
    setInterval(tick, 1000);
  });
})();
