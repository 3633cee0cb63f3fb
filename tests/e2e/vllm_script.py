"""A script for vLLM's offline API; Shoal runs it with the import below changed.

python vllm_script.py MODEL CHATS.json     prints what came back as one line of JSON
"""

import json
import sys

from vllm import LLM, SamplingParams


def described(outputs):
    return [
        {
            "prompt": output.prompt,
            "prompt_token_ids": list(output.prompt_token_ids),
            "finished": output.finished,
            "outputs": [
                {
                    "index": each.index,
                    "text": each.text,
                    "token_ids": list(each.token_ids),
                    "finish_reason": each.finish_reason,
                    "stop_reason": each.stop_reason,
                    "ranks": [
                        {str(token): entry.rank for token, entry in sorted(entries.items())}
                        for entries in each.logprobs or ()
                    ],
                }
                for each in output.outputs
            ],
        }
        for output in outputs
    ]


def main():
    model = sys.argv[1]
    with open(sys.argv[2]) as file:
        chats = json.load(file)
    llm = LLM(
        model=model,
        tokenizer=model,
        dtype="float32",
        max_model_len=512,
        seed=0,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.5,
        enforce_eager=True,
        enable_prefix_caching=True,
        max_num_seqs=16,
        disable_log_stats=True,
    )
    greedy = SamplingParams(temperature=0.0, max_tokens=24)
    ids = llm.get_tokenizer()("Order J-17 of Ann").input_ids
    defaults = llm.get_default_sampling_params()
    defaults.temperature = 0.0
    found = {
        "one": llm.generate("Order J-17 of Ann", greedy, use_tqdm=False),
        "tokens": llm.generate([{"prompt_token_ids": ids}], greedy, use_tqdm=False),
        "defaults": llm.generate([{"prompt": "Order J-17"}], defaults, use_tqdm=False),
        "chat": llm.chat(chats[0], greedy, use_tqdm=False),
        "chats": llm.chat(chats, [greedy] * len(chats), use_tqdm=False),
        "stopped": llm.chat(
            chats,
            SamplingParams(temperature=0.0, max_tokens=24, stop=[":"], logprobs=2),
            use_tqdm=False,
        ),
    }
    print(json.dumps({name: described(outputs) for name, outputs in found.items()}))


if __name__ == "__main__":
    main()
