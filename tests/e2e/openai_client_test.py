#!/usr/bin/env python3
"""Checks a running server with the official `openai` Python client.

  openai_client_test.py [http://127.0.0.1:8000/v1]      (default: $NIBBLE_URL; /v1 is added where missing)

Lists models, chats plain and streamed, runs 8 streams at once, leaves streams half way and asks again, and provokes errors. The answers'
text is not judged, only that every part of the protocol arrives as the client expects it. Prints a line per check and, last,
"N passed, N failed"; exit status 1 if any failed. Needs: pip install openai."""
import concurrent.futures
import os
import sys
import traceback

import openai

QUESTION = [{"role": "user", "content": "What is the opposite of big?"}]
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def raised(kind, call):
    """The error of that class which call() raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def chat(client, model, **more):
    options = {"model": model, "messages": QUESTION, "max_tokens": 24, "temperature": 0, "extra_body": NO_THINKING}
    options.update(more)
    return client.chat.completions.create(**options)


def read_stream(stream):
    """Content, reasoning, finish reason, usage and number of chunks of a stream read to its end."""
    content, reasoning, finish, usage, chunks = "", "", None, None, 0
    for chunk in stream:
        expect(chunk.object == "chat.completion.chunk", f"object is {chunk.object}")
        if chunks == 0:
            expect(chunk.choices[0].delta.role == "assistant", "the first chunk has no role")
        chunks += 1
        usage = chunk.usage or usage
        for choice in chunk.choices:
            expect(finish is None, "a choice after the finish reason")
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason
    return content, reasoning, finish, usage, chunks


@check
def lists_models(client, model):
    models = client.models.list().data
    expect(models and models[0].id == model, f"models are {models}")
    expect(models[0].object == "model" and models[0].created > 0, f"model is {models[0]}")
    expect(client.models.retrieve(model).id == model, "retrieve gives another model")


@check
def answers(client, model):
    answer = chat(client, model)
    choice = answer.choices[0]
    expect(answer.object == "chat.completion" and answer.model == model, f"answer is {answer}")
    expect(answer.id.startswith("chatcmpl-") and answer.created > 0, f"id is {answer.id}")
    expect(choice.message.role == "assistant" and choice.message.content, f"message is {choice.message}")
    expect(choice.finish_reason in ("stop", "length"), f"finish_reason is {choice.finish_reason}")
    usage = answer.usage
    expect(usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 24, f"usage is {usage}")
    expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, f"usage is {usage}")


@check
def streams_the_same_answer(client, model):
    plain = chat(client, model)
    content, _, finish, usage, chunks = read_stream(chat(client, model, stream=True, stream_options={"include_usage": True}))
    expect(content == plain.choices[0].message.content, f"stream {content!r}, plain {plain.choices[0].message.content!r}")
    expect(finish == plain.choices[0].finish_reason, f"finish_reason is {finish}")
    expect(usage is not None and usage.completion_tokens == plain.usage.completion_tokens, f"usage is {usage}")
    expect(chunks >= 3, f"only {chunks} chunks")


@check
def no_usage_unless_asked_for(client, model):
    usage = read_stream(chat(client, model, stream=True))[3]
    expect(usage is None, f"usage is {usage}")


@check
def length_ends_an_answer(client, model):
    answer = chat(client, model, max_tokens=2, extra_body={**NO_THINKING, "ignore_eos": True})
    expect(answer.choices[0].finish_reason == "length", f"finish_reason is {answer.choices[0].finish_reason}")
    expect(answer.usage.completion_tokens == 2, f"usage is {answer.usage}")
    answer = chat(client, model, max_tokens=None, max_completion_tokens=3, extra_body={**NO_THINKING, "ignore_eos": True})
    expect(answer.usage.completion_tokens == 3, f"usage is {answer.usage}")


@check
def a_stop_string_ends_an_answer(client, model):
    whole = chat(client, model).choices[0].message.content
    expect(len(whole) >= 3, f"the answer {whole!r} is too short for this check")
    stop = whole[1:3]
    answer = chat(client, model, stop=[stop]).choices[0]
    expect(answer.finish_reason == "stop" and answer.message.content == whole[:whole.index(stop)],
           f"{whole!r} with stop {stop!r} gave {answer.message.content!r}, {answer.finish_reason}")


@check
def a_seed_repeats_an_answer(client, model):
    first = chat(client, model, temperature=1.0, seed=11).choices[0].message.content
    again = chat(client, model, temperature=1.0, seed=11).choices[0].message.content
    expect(first == again, f"{first!r} and {again!r}")


@check
def thinking_is_apart_from_the_answer(client, model):
    message = chat(client, model, max_tokens=64, extra_body={"chat_template_kwargs": {"enable_thinking": True}}).choices[0].message
    reasoning = getattr(message, "reasoning_content", None) or ""
    expect("<think>" not in (message.content or "") + reasoning, f"message is {message}")
    expect("</think>" not in (message.content or "") + reasoning, f"message is {message}")
    stream = chat(client, model, max_tokens=64, stream=True, extra_body={"chat_template_kwargs": {"enable_thinking": True}})
    content, streamed, _, _, _ = read_stream(stream)
    expect(streamed == reasoning and content == (message.content or ""), f"streamed {streamed!r} {content!r}, plain {message}")


@check
def log_probabilities(client, model):
    answer = chat(client, model, logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    expect(len(entries) == answer.usage.completion_tokens or len(entries) == answer.usage.completion_tokens - 1,
           f"{len(entries)} entries for {answer.usage.completion_tokens} tokens")
    for entry in entries:
        expect(entry.logprob <= 0 and len(entry.top_logprobs) == 3, f"entry is {entry}")
        expect(entry.top_logprobs[0].logprob >= entry.top_logprobs[2].logprob, f"entry is {entry}")
    text = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")
    expect(answer.choices[0].message.content.strip() in text, f"tokens {text!r}, answer {answer.choices[0].message.content!r}")


@check
def several_choices(client, model):
    answer = chat(client, model, n=3, temperature=1.0, seed=5)
    expect([choice.index for choice in answer.choices] == [0, 1, 2], f"choices are {answer.choices}")


@check
def long_conversations_and_content_parts(client, model):
    messages = [{"role": "developer", "content": "Answer briefly."}, *QUESTION, {"role": "assistant", "content": "Small."},
                {"role": "user", "content": [{"type": "text", "text": "And of "}, {"type": "text", "text": "hot?"}]}]
    expect(chat(client, model, messages=messages).choices[0].message.content is not None, "no content")


@check
def tools_are_accepted(client, model):
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
    messages = [{"role": "user", "content": "How is the weather in Rome?"}]
    without = chat(client, model, messages=messages)
    answer = chat(client, model, messages=messages, tools=[tool])
    expect(answer.usage.prompt_tokens > without.usage.prompt_tokens, "the tools are not in the prompt")
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages += [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    chat(client, model, messages=messages, tools=[tool])


@check
def eight_streams_at_once(client, model):
    def one(i):
        messages = [{"role": "user", "content": f"Count from {i} upwards. " + "Take your time. " * i}]
        return read_stream(chat(client, model, messages=messages, stream=True, stream_options={"include_usage": True}))

    alone = [one(i) for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, range(8)))
    for i, (a, b) in enumerate(zip(alone, together)):
        expect(b[2] in ("stop", "length") and b[3].completion_tokens > 0, f"stream {i}: {b}")
        expect(a[0] == b[0], f"stream {i} alone {a[0]!r}, among others {b[0]!r}")


@check
def a_client_that_leaves_is_no_trouble(client, model):
    for _ in range(12):
        stream = chat(client, model, max_tokens=2000, stream=True, extra_body={**NO_THINKING, "ignore_eos": True})
        next(iter(stream))
        stream.close()
    expect(chat(client, model).choices[0].finish_reason in ("stop", "length"), "the next request is not served")


@check
def an_impatient_client_is_no_trouble(client, model):
    hasty = client.with_options(timeout=0.2, max_retries=0)
    more = {**NO_THINKING, "ignore_eos": True}
    raised(openai.APITimeoutError, lambda: chat(hasty, model, max_tokens=2000, n=8, extra_body=more))
    expect(chat(client, model).choices[0].finish_reason in ("stop", "length"), "the next request is not served")


@check
def raw_headers(client, model):
    response = client.chat.completions.with_raw_response.create(
        model=model, messages=QUESTION, max_tokens=1, extra_headers={"X-Request-Id": "e2e-1"})
    expect(response.headers["x-request-id"] == "e2e-1", f"headers are {response.headers}")
    expect(response.headers["content-type"].startswith("application/json"), f"headers are {response.headers}")


@check
def errors_have_their_classes(client, model):
    error = raised(openai.NotFoundError, lambda: chat(client, "no-such-model"))
    expect(error.body["param"] == "model" and error.body["code"] == 404, f"body is {error.body}")
    raised(openai.NotFoundError, lambda: client.models.retrieve("no/such/model"))
    raised(openai.NotFoundError, lambda: client.embeddings.create(model=model, input="x"))
    error = raised(openai.BadRequestError, lambda: chat(client, model, temperature=3))
    expect(error.body["param"] == "temperature", f"body is {error.body}")
    error = raised(openai.BadRequestError, lambda: chat(client, model, messages=[]))
    expect(error.body["param"] == "messages", f"body is {error.body}")
    error = raised(openai.BadRequestError, lambda: chat(client, model, messages=[{"role": "user", "content": "word " * 500000}]))
    expect("maximum context length is" in str(error), f"error is {error}")
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    raised(openai.BadRequestError, lambda: chat(client, model, messages=image))
    raised(openai.BadRequestError, lambda: chat(client, model, extra_body={"logit_bias": {"99999999": 1}}))


def main():
    url = sys.argv[1] if len(sys.argv) == 2 else os.environ.get("NIBBLE_URL", "")
    if not url or len(sys.argv) > 2:
        print(__doc__)
        return 2
    url = url.rstrip("/") + ("" if url.rstrip("/").endswith("/v1") else "/v1")
    direct = openai.DefaultHttpxClient(trust_env=False)  # no proxy between us and a server on this machine
    client = openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=300, http_client=direct)
    model = client.models.list().data[0].id
    failed = 0
    for function in CHECKS:
        try:
            function(client, model)
            print(f"ok      {function.__name__}")
        except Exception as error:  # a check that breaks is a failed check, shown as such
            failed += 1
            print(f"FAILED  {function.__name__}: {type(error).__name__}: {error}")
            if not isinstance(error, AssertionError):
                traceback.print_exc()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
