// Asks for the operator's password; the answer sets a cookie.
import { post } from "./api.js";

const form = document.getElementById("login");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const wrong = form.querySelector(".wrong");
  wrong.textContent = "";
  try {
    await post("/api/login", { password: form.elements.password.value });
    location.href = "/";
  } catch (error) {
    wrong.textContent = error.message;
    form.elements.password.select();
  }
});
