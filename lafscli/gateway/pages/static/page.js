"use strict";
// What pages gain by a script: buttons that copy, dialogs instead of pages that ask, and uploads that show how far
// they are. Everything works without it.
(() => {
  for (const button of document.querySelectorAll("[data-copy]")) {
    const field = document.getElementById(button.dataset.copy);
    button.hidden = false;
    button.addEventListener("click", async () => {
      field.select();
      try {
        await navigator.clipboard.writeText(field.value);
      } catch {
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // ---- rename and remove: the row says which entry, the dialog asks
  const listing = document.querySelector("table.listing");
  if (listing !== null && typeof HTMLDialogElement === "function") {
    listing.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-ask]");
      const dialog = link && document.getElementById(`ask-${link.dataset.ask}`);
      const here = listing.dataset.here + "/";
      const address = link && link.getAttribute("href").replace(/[?#].*$/, "");
      if (!dialog || !address.startsWith(here) || event.ctrlKey || event.metaKey || event.shiftKey) {
        return;
      }
      event.preventDefault();
      const form = dialog.querySelector("form");
      const at = form.elements.at;
      at.dataset.above ??= at.value;
      const name = address.slice(here.length);
      at.value = at.dataset.above === "" ? name : `${at.dataset.above}/${name}`;
      const shown = link.closest("tr").querySelector("bdi");
      dialog.querySelector("[data-name]").replaceChildren(shown.cloneNode(true));
      const to = form.elements.to;
      if (to) {
        to.value = decodeURIComponent(name);
      }
      dialog.showModal();
      if (to) {
        const dot = to.value.lastIndexOf(".");
        to.focus();
        to.setSelectionRange(0, dot > 0 ? dot : to.value.length);
      }
    });
    for (const button of document.querySelectorAll("dialog [data-close]")) {
      button.addEventListener("click", () => button.closest("dialog").close());
    }
  }

  // ---- upload, one file after the other
  const form = document.querySelector("form[data-drop]");
  if (form === null) {
    return;
  }
  const list = form.querySelector(".progress");
  form.querySelector(".drop-hint").hidden = false;
  let busy = false;

  function line(name) {
    const item = document.createElement("li");
    const label = document.createElement("bdi");
    const bar = document.createElement("progress");
    const said = document.createElement("span");
    label.textContent = name;
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", name);
    item.append(label, bar, said);
    list.append(item);
    return { item, bar, said };
  }

  function send(file, { item, bar, said }) {
    return new Promise((resolve) => {
      const data = new FormData();
      for (const field of ["token", "cap", "at"]) {
        data.append(field, form.elements[field].value);
      }
      if (form.elements.over.checked) {
        data.append("over", "files");
      }
      data.append("name", file.name);
      data.append("file", file, "file");
      const request = new XMLHttpRequest();
      const end = (failure) => {
        item.classList.add(failure ? "failed" : "done");
        const named = failure === "" || failure.startsWith(`${file.name}: `);
        said.textContent = named ? failure || "stored" : `${file.name}: ${failure}`;
        bar.value = failure ? bar.value : 1;
        resolve(!failure);
      };
      request.upload.onprogress = (event) => {
        bar.value = event.total ? event.loaded / event.total : 0;
        said.textContent = event.loaded < event.total ? `${Math.floor(100 * bar.value)} %` : "storing…";
        if (event.loaded >= event.total) {
          bar.removeAttribute("value");
        }
      };
      request.onload = () => end(request.status === 200 ? "" : request.responseText || `failed: ${request.status}`);
      request.onerror = () => end("the gateway did not answer");
      request.open("POST", form.action);
      request.setRequestHeader("Accept", "text/plain");
      request.send(data);
    });
  }

  async function upload(files) {
    if (busy || files.length === 0) {
      return;
    }
    busy = true;
    list.hidden = false;
    list.replaceChildren();
    const lines = files.map((file) => line(file.name));
    let stored = 0;
    for (const [index, file] of files.entries()) {
      stored += await send(file, lines[index]) ? 1 : 0;
    }
    busy = false;
    if (stored === files.length) {
      location.reload();
    } else if (stored > 0) {
      const again = document.createElement("a");
      again.href = location.pathname;
      again.textContent = "Show the directory as it is now";
      list.append(again);
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    upload([...form.elements.file.files]);
  });
  window.addEventListener("beforeunload", (event) => {
    if (busy) {
      event.preventDefault();
    }
  });
  let depth = 0;
  const carriesFiles = (event) => [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) {
      depth += 1;
      document.body.classList.add("dropping");
    }
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    document.body.classList.toggle("dropping", depth > 0);
  });
  document.addEventListener("dragover", (event) => {
    if (carriesFiles(event)) {
      event.preventDefault();
    }
  });
  document.addEventListener("drop", (event) => {
    depth = 0;
    document.body.classList.remove("dropping");
    if (carriesFiles(event)) {
      event.preventDefault();
      upload([...event.dataTransfer.files]);
    }
  });
})();
