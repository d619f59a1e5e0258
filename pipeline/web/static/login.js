// A wrong token brings the reader back here with ?wrong, too many of them with ?wait.

const problem = document.querySelector("#problem");
const query = new URLSearchParams(location.search);
const WRONG = "This is not the server’s token. Copy it again, or ask the person who runs the server.";
const WAIT = "Too many wrong tokens were tried from your address; wait a minute, then try again.";
if (query.has("wrong") || query.has("wait")) {
  problem.textContent = query.has("wait") ? WAIT : WRONG;
  problem.hidden = false;
}
