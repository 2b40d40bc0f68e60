"use strict";
// Puts what is new in the place of what is there. Nothing moves while text is selected, and
// whoever uses the keyboard stays where they were.

function replace(page) {
  const [fresh, shown] = [page.querySelector("main"), document.querySelector("main")];
  document.getElementById("read").replaceWith(page.getElementById("read"));
  if (fresh.innerHTML === shown.innerHTML) return;
  const href = document.activeElement?.getAttribute("href");
  const wasInside = shown.contains(document.activeElement);
  shown.replaceWith(fresh);
  if (wasInside && href) {
    [...fresh.querySelectorAll("a")].find((link) => link.getAttribute("href") === href)?.focus();
  }
}

async function refresh() {
  if (document.hidden || !getSelection().isCollapsed) return;
  const told = document.getElementById("told");
  try {
    const answer = await fetch(location.pathname + location.search, {cache: "no-store"});
    if (!answer.ok) throw new Error(`it says ${answer.status}`);
    replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
    told.textContent = "";
  } catch (error) {
    told.textContent = `The server does not answer (${error.message}): this is from before.`;
  }
}

(async () => {
  for (;;) {
    await new Promise((go) => setTimeout(go, REFRESH_SECONDS * 1000));
    await refresh();
  }
})();
